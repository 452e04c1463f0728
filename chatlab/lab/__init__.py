"""The notebook side: a session with its own service, live widgets, and checks of answers.

    from chatlab.lab import doctor, predict, start
    from chatlab.lab.lessons import start_here as lesson

    lab = await start("00")                       session.py: the service, its users, its switches
    alice = await lab.person("alice")
    trace = await alice.send(bob, "Hello, Bob!")  trace.py: the stages that one message passed
    life = await lab.life(trace.key)              life.py: one cached key from creation to expiry
    asked = await lab.asked(bob.read("alice"))    asked.py: the MongoDB and Redis commands it cost
    await Walk(work, lab).to("has read")          walk.py: a task that stops at a named point, so
                                                  that a race happens on every run
    lab.flow_map(), lab.timeline()                widgets/: all live widgets
    await lesson.durable_box(lab, trace, "save")  verdicts.py, lessons/: check an answer against
                                                  the running system; checks never raise
    lesson.claims(lab, trace, life)               claims.py, ledger.py: the document's claims, and
                                                  what was measured for each

The layers above (the service and its transports) do not import this package.
"""

from chatlab.lab.checkup import doctor
from chatlab.lab.session import Lab, start
from chatlab.lab.walk import Walk
from chatlab.lab.widgets import predict

__all__ = ["Lab", "Walk", "doctor", "predict", "start"]
