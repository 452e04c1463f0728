"""Which other processes may run, so that events must be published, and which of them were lost.

Each process publishes a report every second, and Redis delivers the reports of all in one order. So
a process has ended if it is missing between several reports of our own. While Redis is away, or
this process is late, no report of our own arrives, and so nothing is concluded.
"""

import time
from typing import NamedTuple

MISSED_REPORTS = 5  # between as many of our own reports, a process that runs has reported


class _Heard(NamedTuple):
    """The last report of another process: when it arrived, and after how many of our own."""

    at: float
    own_reports: int


class OtherProcesses:
    """Remembers the other processes from their first report until they end."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}
        self._own_reports = 0

    def note_report(self, process_id: str) -> None:
        """Note that this process runs."""
        self._heard[process_id] = _Heard(time.monotonic(), self._own_reports)

    def note_goodbye(self, process_id: str) -> None:
        """Note that this process has ended, and that none of its events are lost."""
        self._heard.pop(process_id, None)

    def note_own_report(self) -> float | None:
        """Forget the processes that are lost.

        Return for how many seconds one of them has been silent, or None if none is lost.
        """
        self._own_reports += 1
        last = self._own_reports - MISSED_REPORTS
        lost = [name for name, heard in self._heard.items() if heard.own_reports <= last]
        silent_s = [time.monotonic() - self._heard.pop(name).at for name in lost]
        return max(silent_s, default=None)

    @property
    def are_known(self) -> bool:
        """Return whether another process has reported and has not ended."""
        return bool(self._heard)

    @property
    def may_run(self) -> bool:
        """Return False if this process is alone, which it knows only after some reports."""
        return self.are_known or self._own_reports < MISSED_REPORTS
