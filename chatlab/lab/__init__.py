"""The notebook side: a session with its own service, live widgets, and checks of answers.

    from chatlab.lab import doctor, predict, start
    from chatlab.lab.lessons import start_here as lesson

    lab = await start("00")                       session.py: the service and everything observed
    alice = await lab.user("alice")               user.py
    trace = await alice.send(bob, "Hello, Bob!")  trace.py: the stages that one message passed
    lab.redis.get(trace.key)                      session_stores.py: ordinary clients of both stores
    lifetime = await lab.key_lifetime(trace)      key_lifetime.py: one cached key from creation to
                                                  expiry
    await lab.record_queries(bob.read("alice"))   query_log.py: the MongoDB and Redis commands
    lab.engines.freeze("redis")                   session_engines.py: faults
    Race(lab, key, reader=read, sender=send).run("reader", until="find")
                                                  race.py: functions that wait before each command
    await check_cache(lab, MyCache)               cache_checker.py: tests for any cache class
    lab.flow_map(), lab.replay(trace)             lab_widgets.py, widgets/: all live widgets
    await lesson.durable_box(lab, trace, "save")  checks.py, lessons/: check an answer against the
                                                  running system; checks never raise
    lesson.claims(lab, trace, lifetime)           claims.py, scorecard.py: the document's claims,
                                                  and what was measured for each

The layers above (the service and its transports) do not import this package.
"""

from chatlab.lab.cache_checker import check_cache
from chatlab.lab.doctor_report import doctor
from chatlab.lab.race import Race
from chatlab.lab.session import Lab, start
from chatlab.lab.widgets import predict

__all__ = ["Lab", "Race", "check_cache", "doctor", "predict", "start"]
