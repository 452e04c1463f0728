"""The flow events of a session's service."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from chatlab.domain.trace import StageEvent

EVENT_TIMEOUT_S = 2.0
MAX_EVENTS = 50_000

Found = TypeVar("Found")


class EventLog(deque[StageEvent]):
    """The newest MAX_EVENTS flow events, oldest first."""

    def __init__(self) -> None:
        super().__init__(maxlen=MAX_EVENTS)
        self._arrived = asyncio.Event()

    def record(self, event: StageEvent) -> None:
        """Add an event, and wake all tasks that wait for one."""
        self.append(event)
        self._arrived.set()
        self._arrived.clear()

    async def wait_for(
        self, condition: Callable[[], Found | None], timeout_s: float = EVENT_TIMEOUT_S
    ) -> Found | None:
        """Call `condition` after each event until it returns something true, and return that.

        Return None after `timeout_s`.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not (found := condition()):
                    await self._arrived.wait()
                return found
        return None

    async def trace_events(self, message_id: str) -> list[StageEvent]:
        """Return the flow events of the send that created this message.

        The list is shorter than the diagram if some events do not arrive.
        """

        def passed(stage: str) -> StageEvent | None:
            return next(
                (
                    event
                    for event in self
                    if event["stage"] == stage and event.get("messageId") == message_id
                ),
                None,
            )

        await self.wait_for(lambda: passed("respond"))
        created = passed("create")
        return [event for event in self if created and event["trace"] == created["trace"]]
