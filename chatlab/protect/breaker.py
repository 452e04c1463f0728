"""A circuit breaker: after one failure nobody waits for the dead part until a probe in the background has found it alive."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from chatlab.metrics import BREAKERS

log = logging.getLogger(__name__)


class CircuitBreaker:
    """`probe` raises while the part is away. An open breaker tries it every `pause` seconds, for at most `patience` seconds.

    `back` is called in the moment the breaker closes, before anybody else can use the part.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[None]],
        *,
        on_recovery: Callable[[], None] = lambda: None,
        probe_interval_s: float = 0.25,
        probe_timeout_s: float = 1.0,
    ) -> None:
        self.name, self.is_open = name, False
        self._probe, self._on_recovery = probe, on_recovery
        self._probe_interval_s, self._probe_timeout_s = probe_interval_s, probe_timeout_s
        self._recovery: asyncio.Task[None] | None = None

    def trip(self, reason: BaseException) -> None:
        """Open: the part has failed. Says so once for an outage."""
        if not self.is_open:
            self.is_open = True
            BREAKERS[self.name.lower()].set(1)
            log.warning("%s does not answer (%s: %s); going on without it", self.name, type(reason).__name__, reason)
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        while self.is_open:
            try:
                await asyncio.wait_for(self._probe(), self._probe_timeout_s)
            except Exception:  # noqa: BLE001 - whatever it is, the part is not back
                await asyncio.sleep(self._probe_interval_s)
            else:
                self.is_open = False
                self._on_recovery()
                BREAKERS[self.name.lower()].set(0)
                log.warning("%s is back", self.name)

    async def close(self) -> None:
        """Stop probing."""
        if self._recovery:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
