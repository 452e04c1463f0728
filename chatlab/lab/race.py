"""Functions that run at the same time, one command after another, in an order that you decide.

    race = Race(lab, "messages:dave:erin", reader=read, sender=send)
    race.run("reader", until="find")  # stops when its command `find` has its reply
    race.run("sender")                # until it returns
    race.run("reader")                # shown as a picture: a lane for each function

Each function is called with `r` and `db`: a client of redis-py and a database of pymongo, as
`lab.redis` and `lab.mongo` are. So a rare order of events happens on every run, without luck and
without sleeps. `every_order` tries all orders.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Self

from chatlab.lab.lanes import PAUSE, LanesPicture, LaneStep
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.stepped_clients import Lane
from chatlab.lab.stepped_redis import readable

MAX_STEPS = 200  # of all functions together; more mean an endless loop
IN_MS = ("PTTL",)  # shown in seconds, because it differs from run to run

Work = Callable[[Any, Any], Any]


class Race:
    """Several functions, each of which waits before each of its commands.

    `key`: the picture shows the value of this key after each step. Without a key it shows the steps
    only.
    """

    def __init__(self, lab: Lab, key: str = "", **works: Work) -> None:
        self.key, self._redis, clients = key, lab.redis, lab.stepped_clients
        self.steps: list[LaneStep] = []
        self.lanes = {
            name: Lane(
                functools.partial(work, clients.redis, clients.mongo),
                functools.partial(self._record, name),
            )
            for name, work in works.items()
        }

    def run(self, name: str, until: str = "", reply: Any = None) -> Self:
        """Run one function until it returns, or until its command of this name has its reply.

        Raises PremiseGone if that is not the expected `reply`.
        """
        lane = self.lanes[name]
        lane.start()
        while not lane.is_done:
            command = lane.next_command
            self.step(name)
            if until and command.partition(" ")[0].lower() == until.lower():
                self._require_reply(reply)
                return self
        if lane.error:
            raise lane.error
        if until:
            raise PremiseGone(
                f"{name} ended without the command {until}.",
                "run the cell that prepares this race again",
            )
        return self

    def step(self, name: str) -> None:
        """Let one command of this function happen."""
        if len(self.steps) >= MAX_STEPS:
            self.abandon()
            raise PremiseGone(
                f"The functions sent more than {MAX_STEPS} commands.",
                "look for an endless loop",
            )
        self.lanes[name].start()
        self.lanes[name].step()

    def note(self, lane: str, text: str) -> Self:
        """Add a line to the picture for something that happened outside of the race."""
        self.steps.append(LaneStep(lane, text, self._value()))
        return self

    @property
    def unfinished(self) -> list[str]:
        """The functions that have not ended. All have started."""
        for lane in self.lanes.values():
            lane.start()
        return [name for name, lane in self.lanes.items() if not lane.is_done]

    @property
    def results(self) -> dict[str, Any]:
        """What the functions that have ended returned."""
        return {name: lane.result for name, lane in self.lanes.items() if lane.is_done}

    @property
    def error(self) -> Exception | None:
        """The first error of a function."""
        return next((lane.error for lane in self.lanes.values() if lane.error), None)

    def picture(self, lost: str = "") -> LanesPicture:
        """Draw the steps so far. `lost`: mark the step after which the key lacks this text."""
        names = dict.fromkeys([*self.lanes, *(step.lane for step in self.steps)])
        waiting = [
            LaneStep(name, f"{PAUSE}before {lane.next_command}", self._value())
            for name, lane in self.lanes.items()
            if lane.next_command
        ]
        return LanesPicture(self.key, tuple(names), [*self.steps, *waiting], lost)

    def abandon(self) -> None:
        """End the threads of functions that have not ended."""
        for lane in self.lanes.values():
            if not lane.is_done:
                lane.abandon()

    def __repr__(self) -> str:
        return repr(self.picture())

    def _repr_svg_(self) -> str:
        return self.picture()._repr_svg_()

    def _require_reply(self, reply: Any) -> None:
        text = self.steps[-1].text
        if reply is not None and not text.endswith(f" → {readable(reply)}"):
            raise PremiseGone(
                f"The step {text} should have the reply {reply}.",
                "run the cell again: the machine may have been too busy",
            )

    def _record(self, name: str, command: str, reply: Any) -> None:
        in_ms = command.startswith(IN_MS) and reply >= 0
        text = f"{reply / 1000:.3f} s" if in_ms else readable(reply)
        self.steps.append(LaneStep(name, f"{command} → {text}", self._value()))

    def _value(self) -> str:
        return readable(value_of(self._redis, self.key)) if self.key else ""


def every_order(start: Callable[[], Race]) -> Iterator[Race]:
    """Yield a finished race for each order in which its commands can happen.

    `start` prepares the stores and returns a race that has not begun. Raises the first error of a
    function.
    """
    plan: list[list[str]] = []  # for each step the functions to try; the first one is tried now
    while True:
        race, depth = start(), 0
        while ready := race.unfinished:
            if depth == len(plan):
                plan.append(ready)
            race.step(plan[depth][0])
            depth += 1
        if race.error:
            raise race.error
        yield race
        plan = plan[:depth]
        while plan and len(plan[-1]) == 1:
            plan.pop()
        if not plan:
            return
        plan[-1] = plan[-1][1:]
