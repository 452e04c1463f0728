"""The windows that a write of this process did not reach."""

import time
from collections import OrderedDict

from chatlab.domain.ids import Conversation


class MissedWindows:
    """Remember each conversation for one TTL. After that its outdated window has expired."""

    def __init__(self) -> None:
        self._missed_at: OrderedDict[Conversation, float] = OrderedDict()

    def add(self, conversation: Conversation, ttl_ms: int) -> None:
        """Remember that a write to this window was missed now.

        Forget those that were missed more than a TTL ago.
        """
        now = self._missed_at[conversation] = time.monotonic()
        self._missed_at.move_to_end(conversation)
        while now - next(iter(self._missed_at.values())) > ttl_ms / 1000:
            self._missed_at.popitem(last=False)

    def __bool__(self) -> bool:
        return bool(self._missed_at)

    def take_all(self) -> list[Conversation]:
        """Return the conversations and forget them."""
        missed, self._missed_at = list(self._missed_at), OrderedDict()
        return missed
