"""Search the messages of one conversation.

There is no text index: it would make every insert slower. MongoDB looks at the texts of the
conversation in the order of their `seq`, newest first, a part at a time.
"""

from chatlab.domain.ids import Conversation, UserId
from chatlab.domain.message import Message
from chatlab.domain.requests import Search
from chatlab.protect.read_limits import ReadLimits
from chatlab.store.messages import MessageStore

PART_MESSAGES = 5_000  # searched by one query
# Searching a message costs MongoDB about this part of reading it, and the service nothing.
COST = 1 / 10


class MessageSearch:
    """Search, one part after the other, in the slots of long reads and charged as one."""

    def __init__(self, messages: MessageStore, limits: ReadLimits) -> None:
        self._messages, self._limits = messages, limits

    async def find(
        self, reader: UserId, conversation: Conversation, asked: Search
    ) -> list[Message]:
        """Return the newest messages that contain the text, newest first.

        Raises RateLimited (the reader reads too much), StoreUnavailable.
        """
        last = (await self._messages.find_last_seqs([conversation])).get(conversation, 0)
        highest = last if asked.before is None else min(last, asked.before - 1)
        found: list[Message] = []
        async with self._limits.stream(reader):
            while highest > 0 and len(found) < asked.limit:
                part = range(max(1, highest - PART_MESSAGES + 1), highest + 1)
                missing = asked.limit - len(found)
                async with self._limits.chunk(reader):
                    found += await self._messages.search(conversation, asked.query, part, missing)
                await self._limits.charge_chunk(reader, round(len(part) * COST))
                highest = part.start - 1
        return found
