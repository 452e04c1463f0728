"""Observe the cached keys of a session from their creation to the sweeper's expiry report."""

import asyncio
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from chatlab.domain.trace import StageEvent
from chatlab.lab.event_log import EVENT_TIMEOUT_S, EventLog
from chatlab.lab.key_lifetime import LONG_INTERVAL_S, KeyLifetime
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.tasks import BackgroundTasks
from chatlab.settings import Settings

# Keys observed at the same time. Under load, further keys are not observed.
MAX_OBSERVED_KEYS = 20


class LifetimeObserver:
    """Check Redis for each key that the service caches. `on_change` is called with its lifetime."""

    def __init__(
        self,
        redis: Redis,
        events: EventLog,
        tasks: BackgroundTasks,
        get_settings: Callable[[], Settings],
        on_change: Callable[[KeyLifetime], None],
    ) -> None:
        self._redis, self._events, self._tasks = redis, events, tasks
        self._get_settings, self._on_change = get_settings, on_change
        self._lifetimes: dict[str, tuple[KeyLifetime, asyncio.Task[None]]] = {}
        self._reports: dict[str, StageEvent] = {}  # the sweeper's expiry report of each key

    def clear(self) -> None:
        """Forget all keys."""
        self._lifetimes.clear()
        self._reports.clear()

    def on_event(self, event: StageEvent) -> None:
        """Start to observe a key that was cached, or record the sweeper's report of its expiry."""
        if event["stage"] == "cached":
            self._start(event)
        elif event["stage"] == "cleaned":
            self._reports[event["key"]] = event

    async def lifetime(self, key: str) -> KeyLifetime:
        """Wait for the end of a key, and return its whole lifetime.

        Raises PremiseGone if the key was not observed.
        """
        if not await self._events.wait_for(lambda: key in self._lifetimes):
            raise PremiseGone(
                f"{key} was not observed: it was not cached in this session, a cell blocked the"
                f" kernel meanwhile, or more than {MAX_OBSERVED_KEYS} keys were cached at the same"
                " time.",
                "send the message again",
            )
        lifetime, task = self._lifetimes[key]
        settings = self._get_settings()
        timeout_s = settings.cache_ttl + 11 * settings.sweep_interval + EVENT_TIMEOUT_S
        try:
            await asyncio.wait_for(asyncio.shield(task), timeout_s)
        except TimeoutError:
            raise PremiseGone(
                f"{key} has not ended within {timeout_s:g} s.", "look at its TTL"
            ) from None
        return lifetime

    def _start(self, event: StageEvent) -> None:
        running = sum(not task.done() for _, task in self._lifetimes.values())
        if event["key"] in self._lifetimes or running >= MAX_OBSERVED_KEYS:
            return
        lifetime = KeyLifetime.from_event(event)
        self._lifetimes[lifetime.key] = lifetime, self._tasks.start(self._observe(lifetime))
        self._on_change(lifetime)

    async def _observe(self, lifetime: KeyLifetime) -> None:
        """Check Redis until it no longer has the key, then wait for the sweeper's expiry report.

        A check makes Redis delete an expired key at once.
        """
        while lifetime.state in ("live", "kept"):  # noqa: ASYNC110 - Redis sends no event at a deadline
            await asyncio.sleep(self._check(lifetime))
        report = await self._events.wait_for(
            lambda: self._reports.get(lifetime.key), self._report_timeout_s(lifetime)
        )
        if report:
            lifetime.record_report(report)
            self._on_change(lifetime)

    def _check(self, lifetime: KeyLifetime) -> float:
        """Check the key once, and return the seconds until the next check."""
        try:
            if lifetime.check(lambda key: int(self._redis.pttl(key))):
                self._on_change(lifetime)
        except RedisError:  # stopped or frozen on purpose
            return LONG_INTERVAL_S
        return lifetime.next_check_s()

    def _report_timeout_s(self, lifetime: KeyLifetime) -> float:
        """Return how long to wait for the sweeper's report; 0 if the sweeper will not report.

        Without a sweeper there is no report, and a key that disappeared before its deadline
        (because Redis was killed) is not reported as cleaned.
        """
        settings = self._get_settings()
        if settings.sweeper and lifetime.state == "expired":
            return 10 * settings.sweep_interval
        return 0
