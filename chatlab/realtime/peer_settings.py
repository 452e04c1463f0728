"""Settings that must be the same in all processes, compared with what other processes report.

The cache is exact only if no process gives up a write sooner than the others can notice, and if a
fence lives at least as long as any process may take for a fill. docs/cache.md explains both.
"""

import logging
import time

from chatlab.protect.log_limit import LogLimit
from chatlab.settings import PREFIX, Settings

log = logging.getLogger(__name__)

PEER_MEMORY_S = 60.0  # how long the cache still expects a process after its last report
TIMEOUT = "REDIS_TIMEOUT"
CONSEQUENCES = {
    TIMEOUT: "until then, all processes keep to the shorter time when they check Redis",
    "CACHE_TTL": "until then a read may lack a change for one TTL",
}

Values = dict[str, float]  # name without CHATLAB_: value in seconds


class PeerSettings:
    """Knows these settings of the other processes. `own` are those of this one."""

    def __init__(self, settings: Settings) -> None:
        self.own: Values = {TIMEOUT: settings.redis_timeout, "CACHE_TTL": settings.cache_ttl}
        self._timeouts: dict[str, tuple[float, float]] = {}  # of each process, and when heard
        self._log_limit = LogLimit()

    def receive(self, process_id: str, reported: Values) -> None:
        """Take in the report of another process. A difference is logged, once a minute."""
        # A process of an older version reports nothing; its time limit was the default.
        timeout_s = reported.get(TIMEOUT, Settings.model_fields["redis_timeout"].default)
        self._timeouts[process_id] = timeout_s, time.monotonic()
        for name, own in self.own.items():
            other = reported.get(name, own)
            if other != own and self._log_limit.allows(name):
                log.warning(
                    "%s%s is %g here and %g in another process of this installation. Set it to "
                    "the same value everywhere; %s",
                    PREFIX,
                    name,
                    own,
                    other,
                    CONSEQUENCES[name],
                )

    def forget(self, process_id: str) -> None:
        """Expect no more writes of a process that has said goodbye."""
        self._timeouts.pop(process_id, None)

    def shortest_timeout_s(self) -> float | None:
        """Return the shortest `CHATLAB_REDIS_TIMEOUT` reported within PEER_MEMORY_S, or None.

        While Redis is down, no process receives the reports of another one. The cache must still
        expect their writes then, so it needs a longer memory than the list of who is online.
        """
        oldest = time.monotonic() - PEER_MEMORY_S
        for process_id in [one for one, (_, at) in self._timeouts.items() if at < oldest]:
            del self._timeouts[process_id]
        return min((timeout_s for timeout_s, _ in self._timeouts.values()), default=None)
