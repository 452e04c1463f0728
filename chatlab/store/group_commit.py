"""Group commit: sends that arrive while an insert is in flight go together in the next one.

An idle service inserts at once. There is no timer.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Literal, NamedTuple

from chatlab.connections.mongo import Document
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Draft, Message, from_document
from chatlab.errors import StoreUnavailable
from chatlab.metrics import SAVE_BATCH, SAVE_SECONDS
from chatlab.protect.batcher import PUT_BACK, Batcher, Waiting
from chatlab.store.summaries import SummaryWriter

MAX_BATCH_MESSAGES = 500
MAX_KNOWN_CONVERSATIONS = 100_000  # whose last seq is remembered

Rejection = Literal["place", "once"]  # the unique index that rejected a message, see `migrations`


class Saved(NamedTuple):
    """The result of a save.

    `is_new` is False when an earlier send with the same client id had saved the message. `began` is
    the clock when the save began.
    """

    message: Message
    is_new: bool
    began: int


_Waiting = Waiting[Draft, Saved | None]  # None: an earlier message has this client id


class GroupCommitter:
    """Saves drafts in batches, one insert at a time.

    A batch has at most one message of each conversation, so that a rejected message leaves no gap
    between two seqs. A send that is identical to one that waits shares its draft; after that, the
    unique index `once` rejects the draft of a repeated send.

    `seq` counts without gaps and without a counter document. This process remembers the last seq
    of its conversations and tries the next one. If another process was faster, the unique index
    `place` rejects the message, and the committer reads the last seq again.

    `insert` returns the positions that were rejected and the index. `on_uncertain` receives the
    documents of an insert whose result was not received. `summaries` learns of each saved message.
    """

    def __init__(
        self,
        *,
        insert: Callable[[list[Document]], Awaitable[dict[int, Rejection]]],
        find_last_seqs: Callable[[list[Conversation]], Awaitable[dict[Conversation, int]]],
        find_repeated: Callable[[Draft], Awaitable[Message]],
        on_uncertain: Callable[[list[Document]], None],
        clock: Callable[[], int],
        summaries: SummaryWriter,
    ) -> None:
        self._insert, self._find_last_seqs = insert, find_last_seqs
        self._find_repeated, self._on_uncertain = find_repeated, on_uncertain
        self._clock, self._summaries = clock, summaries
        # Identical sends have the same key: they share a draft.
        self._waiting: dict[Conversation, OrderedDict[Hashable, _Waiting]] = {}
        self._last_seqs: OrderedDict[Conversation, int] = OrderedDict()
        self._batcher = Batcher(self._take_batch, self._commit)

    @property
    def waiting(self) -> int:
        """The number of messages that wait for their insert."""
        return sum(map(len, self._waiting.values()))

    async def drain(self) -> None:
        """Wait until every draft is saved or rejected. Cancelling the caller does not stop it."""
        await self._batcher.drain()

    async def save(self, draft: Draft) -> Saved:
        """Return when the draft is saved. Cancelling the caller does not stop the save.

        Raises Conflict if the client id was used for another text, and StoreUnavailable.
        """
        is_repeatable = draft.client_id is not None
        key = (draft.sender, draft.client_id, draft.text) if is_repeatable else draft.id
        queue = self._waiting.setdefault(draft.conversation, OrderedDict())
        shared, callers = queue.setdefault(key, (draft, []))
        saved = await self._batcher.join(callers)
        if saved:
            return saved if shared is draft else saved._replace(is_new=False)
        began = self._clock()
        return Saved(await self._find_repeated(draft), is_new=False, began=began)

    def _take_batch(self) -> list[_Waiting]:
        """Return the first waiting draft of each conversation."""
        batch = []
        for conversation in list(itertools.islice(self._waiting, MAX_BATCH_MESSAGES)):
            queue = self._waiting.pop(conversation)
            batch.append(queue.popitem(last=False)[1])
            if queue:  # behind the conversations that are not in this batch
                self._waiting[conversation] = queue
        return batch

    async def _commit(self, batch: list[_Waiting]) -> list[Saved | None]:
        await self._learn_last_seqs([draft.conversation for draft, _ in batch])
        began = self._clock()
        documents = [self._number(draft) for draft, _ in batch]
        first_ones = [from_document(document) for document in documents if document["seq"] == 1]
        beginning = self._summaries.begin(first_ones) if first_ones else None
        rejected = await self._insert_measured(documents)
        if beginning:
            await beginning
        return [
            self._result(waiting, document, rejected.get(position), began)
            for position, (waiting, document) in enumerate(zip(batch, documents, strict=True))
        ]

    def _number(self, draft: Draft) -> Document:
        """Return the document of a draft, with the next seq of its conversation."""
        return draft.document(self._last_seqs.get(draft.conversation, 0) + 1)

    async def _insert_measured(self, documents: list[Document]) -> dict[int, Rejection]:
        started = time.perf_counter()
        try:
            rejected = await self._insert(documents)
        except StoreUnavailable:
            self._on_uncertain(documents)
            for document in documents:
                self._last_seqs.pop(document["conversation"], None)
            raise
        SAVE_SECONDS.observe(time.perf_counter() - started)
        SAVE_BATCH.observe(len(documents))
        return rejected

    def _result(
        self, waiting: _Waiting, document: Document, rejection: Rejection | None, began: int
    ) -> Any:
        """Return `Saved`, None if another message has the client id, or PUT_BACK."""
        conversation = document["conversation"]
        if rejection == "once":
            return None
        if rejection == "place":  # another process has used the seq
            self._last_seqs.pop(conversation, None)
            self._put_back(waiting)
            return PUT_BACK
        self._remember(conversation, document["seq"])
        message = from_document(document)
        if message.seq > 1:
            self._summaries.note(message)
        return Saved(message, is_new=True, began=began)

    def _put_back(self, waiting: _Waiting) -> None:
        """Let a draft wait again, before the later drafts of its conversation."""
        draft, _ = waiting
        queue = self._waiting.setdefault(draft.conversation, OrderedDict())
        queue[draft.id] = waiting  # the key of identical sends may be in use again
        queue.move_to_end(draft.id, last=False)

    async def _learn_last_seqs(self, conversations: list[Conversation]) -> None:
        unknown = [name for name in conversations if name not in self._last_seqs]
        if unknown:
            found = await self._find_last_seqs(unknown)
            for conversation in unknown:
                self._remember(conversation, found.get(conversation, 0))

    def _remember(self, conversation: Conversation, seq: int) -> None:
        self._last_seqs[conversation] = seq
        self._last_seqs.move_to_end(conversation)
        if len(self._last_seqs) > MAX_KNOWN_CONVERSATIONS:
            self._last_seqs.popitem(last=False)
