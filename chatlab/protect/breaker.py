"""A circuit breaker: while a server is known to be unavailable, requests do not wait for it.

The first failure opens the circuit. A background task then probes the server, and closes the
circuit as soon as a probe succeeds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from chatlab.metrics import BREAKERS

log = logging.getLogger(__name__)


class CircuitBreaker:
    """Knows whether one server (`name`) can be used. The circuit is open while it cannot.

    `probe` raises while the server is unavailable. An open circuit calls it with a timeout of
    `probe_timeout_s`, and waits `probe_interval_s` after each failure. `on_recovery` is called when
    the circuit closes, before any other task can use the server.
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
        """Open the circuit after a failure. Logs once per outage."""
        if not self.is_open:
            self.is_open = True
            BREAKERS[self.name.lower()].set(1)
            log.warning(
                "%s is unavailable (%s: %s); its circuit breaker is open",
                self.name,
                type(reason).__name__,
                reason,
            )
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        while self.is_open:
            try:
                await asyncio.wait_for(self._probe(), self._probe_timeout_s)
            except Exception:  # noqa: BLE001 - any error means that the server is still unavailable
                await asyncio.sleep(self._probe_interval_s)
            else:
                self.is_open = False
                self._on_recovery()
                BREAKERS[self.name.lower()].set(0)
                log.warning("%s is available again; its circuit breaker is closed", self.name)

    async def close(self) -> None:
        """Stop probing."""
        if self._recovery:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
