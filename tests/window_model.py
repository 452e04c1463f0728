"""A model of the conversation window: random schedules of processes, a network, and one Redis, in simulated time.

`window_world.py` runs the real code, but no time passes there unless the test advances it. This model has what that one lacks: commands
take their time to travel, Redis freezes, processes give up after ANSWER, and notice from late replies that others may have given up.
Its clock may step. It needs no server, and tries thousands of schedules in a minute. To try more of them:

    python tests/window_model.py 100000

One tick is 10 ms, so the numbers below are those of the default settings. `Rules` can break each rule, to show that it is needed.
"""

import heapq
import itertools
import random
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

TTL, GRACE = 500, 100  # ticks
ANSWER = 20  # CHATLAB_REDIS_TIMEOUT
CHECK_INTERVAL, LATE, FARTHEST = ANSWER // 4, ANSWER * 2 // 5, ANSWER // 4
NOTICED_WITHIN, LATEST_COMMAND = 2 * CHECK_INTERVAL, 6000  # see `clock_steps.py`
PROBE_PAUSE, LONG, SHORT = 25, 3 * TTL, 10 * ANSWER
DELAYS = [0, 0, 1, 5, GRACE // 2, GRACE - 10, GRACE + 5, TTL - GRACE, TTL]  # of all but Redis
NEVER = -(10**9)

Versions = dict[int, int]  # seq: version
Resume = Callable[[Any], None]
Task = Generator[Callable[[Resume], None], Any, Any]  # yields what it waits for


@dataclass(frozen=True)
class Rules:
    """What the processes and the scripts observe, and the faults that happen."""

    name: str = "all rules"
    late: int = LATE
    round_trip: int = FARTHEST  # the longest one
    patience: int = ANSWER  # of the process that is furthest away
    fence: bool = True
    grace_after_write: bool = True
    age_of_fill: bool = True
    late_send: bool = True
    widen_only_existing: bool = True
    fill_over_distrusted: bool = False
    future_window: bool = True
    future_command: bool = True
    repeated_times: bool = True
    freezes: bool = False
    steps: bool = False  # of the clock of Redis; writes are lost too, so reads need not be exact

    @property
    def exact(self) -> bool:
        """Each read must show all that was acknowledged before it began. Otherwise, all that is older than one TTL."""
        return not self.steps


@dataclass
class Window:
    """The key in Redis. Times are those of the clock of Redis."""

    fence: int
    born: int
    messages: Versions
    is_distrusted: bool = False  # by the process that looks at it

    @property
    def newest(self) -> int:
        return max(self.messages, default=0)


@dataclass
class Process:
    """What a process knows. `behind` is what it adds to its own clock to get that of Redis."""

    distance: int
    trusted_since: int = NEVER
    is_open: bool = False  # its circuit breaker
    has_missed: bool = False
    behind: int = 0
    repeated: list[int] = field(default_factory=list)
    pending: dict[int, Resume] = field(default_factory=dict)  # who waits for a reply
    arrival: int = 0  # of its last command: commands on one connection do not overtake each other
    answer: int = 0
    turn: int = 0  # Redis serves the connections in any order after a freeze


class Model:
    """One schedule. `run` raises AssertionError if a read shows too little."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.rng, self.rules = random.Random(seed), rules
        self.now, self.events = 0, list[tuple[int, int, Callable[[], None]]]()
        self.numbers = itertools.count()
        self.ahead, self.frozen_until = 0, 0  # how far the clock of Redis is ahead
        self.window: Window | None = None
        self.stored, self.history = Versions(), list[tuple[int, int, int]]()  # MongoDB
        self.acked = Versions()
        near = self.rng.choice([0, 1, min(rules.round_trip, FARTHEST)])
        self.processes = [Process(near), Process(rules.round_trip)]

    # --- time and tasks -----------------------------------------------------------------------------------------------------------

    def at(self, time: int, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), act))

    def start(self, task: Task) -> None:
        def resume(value: Any) -> None:
            try:
                wait = task.send(value)
            except StopIteration:
                return
            wait(resume)

        resume(None)

    def sleep(self, ticks: int) -> Callable[[Resume], None]:
        return lambda resume: self.at(self.now + ticks, lambda: resume(None))

    def ask(
        self, process: Process, script: Callable[[], Any], patience: int | None = None
    ) -> Callable[[Resume], None]:
        """Send a command. The reply is None if the process gives up; the command may still run later."""

        def begin(resume: Resume) -> None:
            there, number = self.rng.randint(0, process.distance), next(self.numbers)

            def answer(value: Any) -> None:
                if number in process.pending:
                    process.pending.pop(number)(value)

            def execute() -> None:
                if self.frozen_until + process.turn > self.now:
                    self.at(self.frozen_until + process.turn, execute)
                    return
                if number not in process.pending and self.rng.random() < 0.5:
                    return  # the connection was closed before Redis read the command
                value = script()
                process.answer = max(process.answer, self.now + process.distance - there)
                self.at(process.answer, lambda: answer(value))

            def give_up() -> None:
                if number in process.pending:
                    self.lose_redis(process)

            process.pending[number] = resume
            process.arrival = max(process.arrival, self.now + there)
            self.at(process.arrival, execute)
            self.at(self.now + (patience or max(self.rules.patience, ANSWER)), give_up)

        return begin

    def lose_redis(self, process: Process) -> None:
        """Open the breaker. No command in flight gets its reply."""
        process.is_open = True
        lost, process.pending = process.pending, {}
        process.arrival = process.answer = 0
        for resume in lost.values():
            resume(None)
        self.start(self.recover(process))

    # --- the clock of Redis -------------------------------------------------------------------------------------------------------

    def redis_now(self) -> int:
        return self.now + self.ahead

    def learn(self, process: Process, asked: int, redis_time: int) -> None:
        """Notice a step back, and distrust the windows that may be from before it."""
        if redis_time - asked < process.behind:
            process.repeated.append(self.now + process.behind + process.distance + NOTICED_WITHIN)
            process.trusted_since = redis_time
        process.behind = redis_time - self.now
        horizon = redis_time + TTL + LATEST_COMMAND
        for time in process.repeated if self.rules.repeated_times else ():
            if redis_time < time <= horizon:
                process.trusted_since = max(process.trusted_since, time)

    # --- scripts: each one runs at once -------------------------------------------------------------------------------------------

    def load(self, trusted_since: int) -> Window | None:
        """Return the window. It has no messages if it is not trusted."""
        window, now = self.window, self.redis_now()
        if window and now >= window.born + TTL:
            window = self.window = None
        if window and self.rules.future_window and max(window.born, window.fence) > now:
            return Window(NEVER, window.born, {}, is_distrusted=bool(window.messages))
        if window and window.born < trusted_since:
            return Window(window.fence, window.born, {}, is_distrusted=bool(window.messages))
        return window

    def is_late(self, began: int) -> bool:
        now = self.redis_now()
        return now - began > GRACE or (self.rules.future_command and began > now)

    def expires_too_soon(self, window: Window) -> bool:
        return self.rules.grace_after_write and window.born + TTL - self.redis_now() < GRACE

    def start_window(self, fence: int, born: int, messages: Versions) -> None:
        self.window = Window(fence, min(born, self.redis_now()), messages)

    def leave_fence(self) -> str:
        self.start_window(self.redis_now(), self.redis_now(), {})
        return "fence"

    def send_script(self, trusted_since: int, began: int, seq: int) -> str:
        window = self.load(trusted_since)
        if (self.is_late(began) and self.rules.late_send) or (window and not window.messages):
            return self.leave_fence()
        if window and seq == window.newest + 1 and not self.expires_too_soon(window):
            window.messages[seq] = 1
        elif not window or seq > window.newest:
            self.start_window(window.fence if window else NEVER, began, {seq: 1})
        return "window"

    def change_script(self, trusted_since: int, seq: int, version: int) -> str:
        window = self.load(trusted_since)
        if (
            not window
            or not window.messages
            or seq > window.newest + 1
            or self.expires_too_soon(window)
        ):
            return self.leave_fence()
        if seq >= min(window.messages):
            window.messages[seq] = max(version, window.messages.get(seq, 0))
        if self.rules.fence:
            window.fence = self.redis_now()
        return "window"

    def fill_script(self, trusted_since: int, token: int, found: Versions, widen: bool) -> None:
        window = self.load(trusted_since)
        if (self.is_late(token) and self.rules.age_of_fill) or (window and token <= window.fence):
            return
        if window and window.is_distrusted and not self.rules.fill_over_distrusted:
            self.leave_fence()
            return
        kept, fence, born = {}, window.fence if window else NEVER, token
        if window and window.messages:
            kept, born = window.messages, min(window.born, token)
        is_apart = kept and (max(found) < min(kept) - 1 or min(found) > max(kept) + 1)
        if not is_apart and (kept or not widen or not self.rules.widen_only_existing):
            merged = {seq: max(kept.get(seq, 0), found.get(seq, 0)) for seq in kept | found}
            self.start_window(fence, born, merged)

    def read_script(self, trusted_since: int) -> tuple[int, Versions]:
        window = self.load(trusted_since)
        return self.redis_now(), dict(window.messages) if window else {}

    # --- what a process does ------------------------------------------------------------------------------------------------------

    def check(self, process: Process) -> Task:
        """Ask for the time. A late reply means that others may have given up."""
        asked = self.now
        if process.is_open:
            return
        redis_time = yield self.ask(process, self.redis_now)
        if redis_time is not None:
            if self.now - asked > self.rules.late:
                process.trusted_since = redis_time
            self.learn(process, asked, redis_time)

    def check_regularly(self, process: Process) -> Task:
        yield self.sleep(self.rng.randint(0, CHECK_INTERVAL))
        while self.now < SHORT:
            yield from self.check(process)
            yield self.sleep(CHECK_INTERVAL)

    def recover(self, process: Process) -> Task:
        """Probe until Redis answers, then fence the window if it lacks a write."""
        asked, redis_time = self.now, None
        while redis_time is None:
            yield self.sleep(PROBE_PAUSE)
            asked = self.now
            redis_time = yield self.ask(process, self.redis_now, patience=LONG)
        process.trusted_since = redis_time
        self.learn(process, asked, redis_time)
        process.is_open = False
        if process.has_missed:
            process.has_missed = False
            self.start(self.write(process, self.leave_fence))

    def write(self, process: Process, script: Callable[[], str]) -> Task:
        """Run a script that writes to the window. If it is given up, the window lacks it.

        The result is False if Redis was not asked at all. Other processes cannot know of such a write until it is fenced.
        """
        if self.rules.steps and self.rng.random() < 0.2:  # it is lost, as in a failover
            return True
        was_asked = not process.is_open
        if not was_asked or (yield self.ask(process, script)) is None:
            process.has_missed = True
        return was_asked

    def commit(self, seq: int, version: int) -> None:
        self.stored[seq] = version
        self.history.append((self.now, seq, version))

    def sender(self, process: Process) -> Task:
        began, seq = self.now + process.behind, len(self.stored) + 1
        self.commit(seq, 1)
        yield self.sleep(self.delay())
        trusted_since = process.trusted_since
        if (yield from self.write(process, lambda: self.send_script(trusted_since, began, seq))):
            self.acked[seq] = max(1, self.acked.get(seq, 0))

    def editor(self, process: Process) -> Task:
        if not self.stored:
            return
        seq = self.rng.choice([len(self.stored), self.rng.randint(1, len(self.stored))])
        version = self.stored[seq] + 1
        self.commit(seq, version)
        yield self.sleep(self.delay())
        trusted_since = process.trusted_since
        if (
            yield from self.write(process, lambda: self.change_script(trusted_since, seq, version))
        ):
            self.acked[seq] = max(version, self.acked.get(seq, 0))

    def reader(self, process: Process) -> Task:
        must = self.must_show()
        trusted_since, found, token = process.trusted_since, Versions(), None
        reply = None
        if not process.is_open:
            reply = yield self.ask(process, lambda: self.read_script(trusted_since))
        if reply and trusted_since == process.trusted_since:
            token, found = reply
        if not found or min(found) > 1:
            yield self.sleep(self.delay())
            first = min(found, default=len(self.stored) + 1)
            older = {seq: version for seq, version in self.stored.items() if seq < first}
            yield self.sleep(self.delay())
            if token is not None and older and not process.is_open:
                widen, time, now_trusted = bool(found), token, process.trusted_since
                fill = self.ask(process, lambda: self.fill_script(now_trusted, time, older, widen))
                fill(lambda _: None)
            found = older | found
        self.check_read(found, must)

    # --- checks -------------------------------------------------------------------------------------------------------------------

    def must_show(self) -> Versions:
        if self.rules.exact:
            return dict(self.acked)
        # What a process may show before it has noticed a step is older by the time until it notices.
        oldest = self.now - TTL - NOTICED_WITHIN - 2 * ANSWER
        return {seq: version for time, seq, version in self.history if time <= oldest}

    def check_read(self, found: Versions, must: Versions) -> None:
        assert sorted(found) == list(range(1, len(found) + 1)), ("a gap", found)
        stale = {seq: version for seq, version in must.items() if found.get(seq, 0) < version}
        assert not stale, ("too old", self.now, stale, found)

    def run(self) -> None:
        """Run until all events are over."""
        self.schedule_freeze() if self.rules.freezes else self.schedule_long()
        while self.events:
            self.now, _, act = heapq.heappop(self.events)
            act()

    def schedule_freeze(self) -> None:
        """Schedule a freeze, and requests around it."""
        for process in self.processes:
            self.start(self.check_regularly(process))
        one, other = self.processes
        begins, ticks = (
            self.rng.randint(ANSWER, 2 * ANSWER),
            self.rng.randint(ANSWER // 2, 2 * ANSWER),
        )
        self.start_at(0, self.sender, one)
        self.start_at(ANSWER // 2, self.reader, one)
        self.at(begins, lambda: self.freeze(ticks))
        for _ in range(4):
            self.start_at(begins + self.rng.randint(-5, ANSWER), self.editor, other)
            self.start_at(begins + self.rng.randint(0, 3 * ANSWER), self.reader, one)

    def schedule_long(self) -> None:
        """Schedule requests over some TTLs, and steps of the clock."""
        kinds = [self.sender, self.editor, self.editor, self.reader, self.reader, self.reader]
        for _ in range(self.rng.randint(10, 60)):
            kind, process = self.rng.choice(kinds), self.rng.choice(self.processes)
            self.start_at(self.rng.randrange(LONG), kind, process)
        for _ in range(self.rng.randint(1, 3) if self.rules.steps else 0):
            ticks = self.rng.choice([-360_000, -TTL - 100, -TTL // 2, -50, 50, TTL, 360_000])
            time = self.rng.randrange(LONG)
            self.at(time, lambda ticks=ticks: self.step(ticks))  # type: ignore[misc]
            for process in self.processes:
                self.start_at(time + self.rng.randint(1, CHECK_INTERVAL), self.check, process)
        for _ in range(
            self.rng.randint(0, 3)
        ):  # a late reply: one process thinks that there was an outage
            self.at(self.rng.randrange(LONG), self.notice_outage)

    def notice_outage(self) -> None:
        process, time = self.processes[0], self.redis_now()
        process.trusted_since = time
        self.learn(process, self.now, time)

    def start_at(self, time: int, kind: Callable[[Process], Task], process: Process) -> None:
        self.at(time, lambda: self.start(kind(process)))

    def delay(self) -> int:
        """Return how long MongoDB takes, or a process that is busy."""
        return self.rng.randint(0, 2) if self.rules.freezes else self.rng.choice(DELAYS)

    def freeze(self, ticks: int) -> None:
        self.frozen_until = self.now + ticks
        for process in self.processes:
            process.turn = self.rng.randint(0, 1)

    def step(self, ticks: int) -> None:
        self.ahead += ticks


SLOW = Rules("all rules")
FREEZES = Rules("all rules, and Redis freezes", freezes=True)
FAR = replace(
    FREEZES, name="the same with a far process", round_trip=3 * FARTHEST, patience=12 * FARTHEST
)
STEPS = Rules("all rules, and steps of the clock", steps=True)
SOUND = [SLOW, FREEZES, FAR, STEPS]
BROKEN = {  # with the number of a schedule that violates a check. A change of the model needs new ones; this script finds them
    replace(FREEZES, name="a late reply may take twice as long", late=2 * LATE): 123,
    replace(FREEZES, name="a far process without more patience", round_trip=3 * FARTHEST): 562,
    replace(SLOW, name="no fence of a change", fence=False): 601,
    replace(SLOW, name="no grace period after a write", grace_after_write=False): 1117,
    replace(SLOW, name="a fill of any age", age_of_fill=False): 1448,
    replace(SLOW, name="a send of any age", late_send=False): 46,
    replace(SLOW, name="widening a window that is gone", widen_only_existing=False): 12163,
    replace(SLOW, name="a fill over a window that others trust", fill_over_distrusted=True): 1145,
    replace(STEPS, name="windows from the future", future_window=False): 99,
    replace(STEPS, name="commands from the future", future_command=False): 121,
    replace(STEPS, name="times that the clock shows twice", repeated_times=False): 1324,
}


def first_violation(rules: Rules, schedules: range) -> str:
    """Return what went wrong in the first schedule that violates a check, or nothing."""
    for seed in schedules:
        try:
            Model(seed, rules).run()
        except AssertionError as failure:
            return f"schedule {seed}: {failure}"
    return ""


def main(count: int) -> None:
    """Print what the first violation of each set of rules is."""
    for rules in (*SOUND, *BROKEN):
        found = first_violation(rules, range(count)) or "no violation"
        sys.stdout.write(f"{rules.name}: {found}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
