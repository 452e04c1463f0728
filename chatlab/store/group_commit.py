"""Group commit: sends that arrive while an insert is in flight go together in the next one.

An idle service inserts at once. There is no timer.
"""

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from chatlab.connections.mongo import Document
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Draft, Message, from_document
from chatlab.errors import ChatlabError, Conflict, StoreUnavailable
from chatlab.metrics import SAVE_BATCH, SAVE_SECONDS

MAX_BATCH_MESSAGES = 500
MAX_KNOWN_CONVERSATIONS = 100_000  # whose last seq is remembered

Rejection = Literal["place", "once"]  # the unique index that rejected a message, see `migrations`


class Saved(NamedTuple):
    """The result of a save.

    `first` is False when an earlier send with the same client id had saved the message. `began` is
    the clock when the save began.
    """

    message: Message
    first: bool
    began: int


class _Waiting(NamedTuple):
    draft: Draft
    saved: "asyncio.Future[Saved]"


class GroupCommitter:
    """Saves drafts in batches, one insert at a time.

    A batch has at most one message of each conversation, so that a rejected message leaves no gap
    between two seqs.

    `seq` counts without gaps and without a counter document. This process remembers the last seq
    of its conversations and tries the next one. If another process was faster, the unique index
    `place` rejects the message, and the committer reads the last seq again.

    `insert` returns the positions that were rejected and the index. `on_uncertain` receives the
    documents of an insert whose result was not received.
    """

    def __init__(
        self,
        *,
        insert: Callable[[list[Document]], Awaitable[dict[int, Rejection]]],
        find_last_seqs: Callable[[list[Conversation]], Awaitable[dict[Conversation, int]]],
        find_repeated: Callable[[Draft], Awaitable[Message]],
        on_uncertain: Callable[[list[Document]], None],
        clock: Callable[[], int],
    ) -> None:
        self._insert, self._find_last_seqs = insert, find_last_seqs
        self._find_repeated, self._on_uncertain = find_repeated, on_uncertain
        self._clock = clock
        self._waiting: dict[Conversation, deque[_Waiting]] = {}
        self._last_seqs: OrderedDict[Conversation, int] = OrderedDict()
        self._by_client_id: dict[tuple[str, ...], _Waiting] = {}  # those that are not saved yet
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """The number of messages that wait for their insert."""
        return sum(map(len, self._waiting.values()))

    async def drain(self) -> None:
        """Wait until every draft is saved or rejected. Cancelling the caller does not stop it."""
        if self._running:
            await asyncio.wait((self._running,))

    async def save(self, draft: Draft) -> Saved:
        """Return when the draft is saved. Cancelling the caller does not stop the save.

        Raises Conflict if the client id was used for another text, and StoreUnavailable.
        """
        if draft.client_id is None:
            return await self._enqueue(draft).saved
        key = (draft.conversation, draft.sender, draft.client_id)
        earlier = self._by_client_id.get(key)
        if earlier is None:
            return await self._enqueue_once(key, draft)
        saved = await asyncio.shield(earlier.saved)
        if earlier.draft.text != draft.text:
            raise text_conflict()
        return saved._replace(first=False)

    async def _enqueue_once(self, key: tuple[str, ...], draft: Draft) -> Saved:
        waiting = self._by_client_id[key] = self._enqueue(draft)
        waiting.saved.add_done_callback(lambda _: self._by_client_id.pop(key))
        return await asyncio.shield(waiting.saved)  # repeated sends may wait for it too

    def _enqueue(self, draft: Draft) -> _Waiting:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(draft, loop.create_future())
        waiting.saved.add_done_callback(_mark_retrieved)
        self._waiting.setdefault(draft.conversation, deque()).append(waiting)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        return waiting

    async def _run(self) -> None:
        while self._waiting:
            await self._commit(self._take_batch())

    def _take_batch(self) -> list[_Waiting]:
        """Return the first waiting draft of each conversation."""
        batch = []
        for conversation in list(itertools.islice(self._waiting, MAX_BATCH_MESSAGES)):
            queue = self._waiting.pop(conversation)
            batch.append(queue.popleft())
            if queue:  # behind the conversations that are not in this batch
                self._waiting[conversation] = queue
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        try:
            await self._learn_last_seqs([waiting.draft.conversation for waiting in batch])
            began = self._clock()
            documents = [self._number(waiting.draft) for waiting in batch]
            rejected = await self._insert_measured(documents)
            for position, (waiting, document) in enumerate(zip(batch, documents, strict=True)):
                if position not in rejected:
                    self._remember(waiting.draft.conversation, document["seq"])
                    _resolve(waiting, Saved(from_document(document), first=True, began=began))
            for position, index in rejected.items():
                await self._handle_rejected(batch[position], index, began)
        except Exception as error:  # noqa: BLE001 - no sender may wait forever
            for waiting in batch:
                # The result is unknown, so the last seq must be read again.
                self._last_seqs.pop(waiting.draft.conversation, None)
                _fail(waiting, error)

    def _number(self, draft: Draft) -> Document:
        """Return the document of a draft, with the next seq of its conversation."""
        return draft.document(self._last_seqs.get(draft.conversation, 0) + 1)

    async def _insert_measured(self, documents: list[Document]) -> dict[int, Rejection]:
        started = time.perf_counter()
        try:
            rejected = await self._insert(documents)
        except StoreUnavailable:
            self._on_uncertain(documents)
            raise
        SAVE_SECONDS.observe(time.perf_counter() - started)
        SAVE_BATCH.observe(len(documents))
        return rejected

    async def _handle_rejected(self, waiting: _Waiting, index: Rejection, began: int) -> None:
        conversation = waiting.draft.conversation
        if index == "once":
            try:
                message = await self._find_repeated(waiting.draft)
                _resolve(waiting, Saved(message, first=False, began=began))
            except Conflict as conflict:
                _fail(waiting, conflict)
        else:
            # Another process has used the seq. Try again, before the later drafts.
            self._last_seqs.pop(conversation, None)
            self._waiting.setdefault(conversation, deque()).appendleft(waiting)

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


def text_conflict() -> Conflict:
    """Return the error for a client id that was used for another text."""
    return Conflict(
        "clientId: this sender has already used it for another text in this conversation."
    )


def _mark_retrieved(saved: "asyncio.Future[Saved]") -> None:
    """Mark the result as read, so that asyncio logs nothing when the caller was cancelled."""
    if not saved.cancelled():
        saved.exception()


def _resolve(waiting: _Waiting, saved: Saved) -> None:
    if not waiting.saved.done():
        waiting.saved.set_result(saved)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.saved.done():
        failure = error if isinstance(error, ChatlabError) else StoreUnavailable()
        waiting.saved.set_exception(failure)
