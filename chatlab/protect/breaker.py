"""A circuit breaker: while a server is known to be unavailable, requests do not wait for it.

The first failure opens the circuit. A background task then probes the server, and closes the
circuit as soon as a probe succeeds.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from chatlab.metrics import BREAKERS, BREAKERS_OPENED
from chatlab.protect.log_limit import LogLimit

log = logging.getLogger(__name__)

SHORTEST_PAUSE_S = 0.25  # after a failed probe; the next pauses are twice as long each
LONGEST_PAUSE_S = 1.0
# If a circuit opens again within this time, the probe succeeds although requests fail. There is
# then a pause before the first probe too, and each pause is still longer than the one before.
CALM_S = 10.0


class CircuitBreaker:
    """Knows whether one server (`name`) can be used. The circuit is open while it cannot.

    `part` is what the metrics call it, if that is another name. Several servers may share one.

    `probe` raises while the server is unavailable. An open circuit calls it with a timeout of
    `probe_timeout_s`. `on_recovery` is called when the circuit closes, before any other task can
    use the server. `explain` returns whether the server answers, and what is wrong with it as the
    end of a sentence.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[None]],
        *,
        part: str | None = None,
        on_recovery: Callable[[], None] = lambda: None,
        probe_timeout_s: float = 1.0,
        explain: Callable[[BaseException], tuple[bool, str]] = lambda error: (
            False,
            f"does not answer ({error!r})",
        ),
    ) -> None:
        self.name, self.is_open = name, False
        self._part = part or name.lower()
        self._probe, self._on_recovery = probe, on_recovery
        self._probe_timeout_s = probe_timeout_s
        self._recovery: asyncio.Task[None] | None = None
        self._pause_s, self._closed_at = 0.0, float("-inf")
        self._explain = explain
        self._log_limit, self._is_logged, self._logged = LogLimit(), False, ""

    def trip(self, reason: BaseException) -> None:
        """Open the circuit after a failure."""
        if not self.is_open:
            BREAKERS_OPENED[self._part].inc()
            self._open(reason)
            self._log_open(reason)

    def open_until_probed(self) -> None:
        """Open the circuit of a server that was not used before, until the first probe succeeds."""
        self._open(None)

    def _open(self, reason: BaseException | None) -> None:
        self.is_open, self._is_logged = True, False
        BREAKERS[self._part].inc()
        self._recovery = asyncio.get_running_loop().create_task(self._recover(reason))

    async def _recover(self, reason: BaseException | None) -> None:
        if time.monotonic() - self._closed_at < CALM_S:
            await self._pause()
        else:
            self._pause_s = 0.0
        while self.is_open:
            try:
                # Not wait_for, which can swallow the cancellation of `close` in Python 3.11.
                async with asyncio.timeout(self._probe_timeout_s):
                    await self._probe()
            except Exception as error:  # noqa: BLE001 - any error means that the server is still unavailable
                await self._pause()
                self._log_open(reason if reason and not self._explain(error)[0] else error)
            else:
                self._close()

    async def _pause(self) -> None:
        self._pause_s = min(max(2 * self._pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        await asyncio.sleep(self._pause_s)

    def _close(self) -> None:
        self.is_open, self._closed_at = False, time.monotonic()
        self._on_recovery()
        BREAKERS[self._part].dec()
        if self._is_logged:
            log.warning("%s is available again; its circuit breaker is closed", self.name)

    def _log_open(self, reason: BaseException) -> None:
        """Log once per outage and cause, and once a minute for each kind of failure.

        An outage that lasts longer than that is logged in any case.
        """
        answers, cause = self._explain(reason)
        is_news = not self._is_logged or (answers and cause != self._logged)
        if is_news and self._log_limit.allows(cause if answers else type(reason).__name__):
            self._is_logged, self._logged = True, cause
            log.warning("%s is unavailable: it %s; its circuit breaker is open", self.name, cause)

    async def close(self) -> None:
        """Stop probing."""
        if self._recovery:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        if self.is_open:
            BREAKERS[self._part].dec()
