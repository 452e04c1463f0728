"""Notice that the clock of Redis has stepped back. Nothing here talks to Redis."""

STEP_US = 100_000  # a smaller difference comes from slewing, which is how NTP usually corrects
# Each process has noticed a step by then. Times that it has taken from its estimate are older.
NOTICED_WITHIN_US = 2_000_000
LATEST_COMMAND_US = 60_000_000  # no command arrives later than this after it was made


class ClockSteps:
    """Remember the times that the clock of Redis shows twice, because it has stepped back.

    All times are microseconds. Each reply of Redis says that its clock showed `redis_us` at some
    moment between `sent_us` and `received_us` of a clock that never steps. So the difference of
    the two clocks lies in an interval. If the next interval lies below it, the clock of Redis has
    stepped back, or another Redis with an earlier clock has answered.
    """

    def __init__(self) -> None:
        self._difference: tuple[int, int] | None = None  # lowest, highest
        self._repeated: list[int] = []  # times that the clock had reached when it stepped back

    def observe(self, sent_us: int, redis_us: int, received_us: int) -> int:
        """Take in a reply. Return by how much the clock has stepped back, or 0."""
        before, self._difference = self._difference, (redis_us - received_us, redis_us - sent_us)
        stepped_us = before[0] - self._difference[1] if before else 0
        if before is None or stepped_us < STEP_US:
            return 0
        self._repeated.append(received_us + before[1] + NOTICED_WITHIN_US)
        return stepped_us

    def last_repeated_time(self, redis_us: int, ttl_us: int) -> int:
        """Return the latest time that may also be from before a step, or 0.

        A window that was born up to then is not trusted. Windows and commands from before a step by
        hours have times in the future, which `window.lua` recognizes, until the clock is near.
        """
        self._repeated = [time for time in self._repeated if time > redis_us]
        horizon_us = redis_us + ttl_us + LATEST_COMMAND_US + NOTICED_WITHIN_US
        return max((time for time in self._repeated if time <= horizon_us), default=0)
