"""The notebook side: a session with a service of its own, widgets that show what really happens in it, checks of what was understood.

    from chatlab.lab import doctor, predict, start
    from chatlab.lab.lessons import start_here as lesson

    lab = await start("00")                        session.py: the service, its people, switches, looks behind its back
    alice = await lab.person("alice")
    trace = await alice.send(bob, "Hello, Bob!")   trace.py: the boxes one message passed
    life = await lab.life(trace.key)               life.py: one cached key from 0 s to gone
    asked = await lab.asked(bob.read("alice"))     asked.py: what that cost MongoDB and Redis
    await Walk(work, lab).to("has read")           walk.py: work that stops at a named point, so that a race happens every time
    lab.flow_map(), lab.timeline()                 widgets/: these, ttl_board, chat, stores and chart, all of them live
    await lesson.durable_box(lab, trace, "save")   verdicts.py, lessons/: asks the running system, never raises
    lesson.claims(lab, trace, life)                claims.py, ledger.py: what the document says, and what was found

Nobody above imports this.
"""

from chatlab.lab.checkup import doctor
from chatlab.lab.session import Lab, start
from chatlab.lab.walk import Walk
from chatlab.lab.widgets import predict

__all__ = ["Lab", "Walk", "doctor", "predict", "start"]
