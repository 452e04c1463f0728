"""The notebook side: a session with a service of its own, widgets that show what really happens in it, checks of what was understood.

    from chatlab.lab import checks, doctor, predict, start

    lab = await start("00")                        session.py: the service, its people, looks behind its back
    alice = await lab.person("alice")
    trace = await alice.send(bob, "Hello, Bob!")   trace.py: the boxes one message passed
    life = await lab.life(trace.key)               life.py: one cached key from 0 s to gone
    lab.flow_map(), lab.ttl_board()                widgets.py: both of them live
    await checks.durable_box(lab, trace, "save")   checks.py: asks the running system, never raises

Nobody above imports this.
"""

from chatlab.lab import checks
from chatlab.lab.checkup import doctor
from chatlab.lab.session import Lab, start
from chatlab.lab.widgets import predict

__all__ = ["Lab", "checks", "doctor", "predict", "start"]
