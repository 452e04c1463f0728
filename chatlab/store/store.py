"""Box "Save to MongoDB": the only module that speaks to a MongoDB collection.

A save is acknowledged when a majority has it in its journal. `seq` counts without gaps because a unique index says so:
this process remembers the last one of the conversations it serves, tries the next, and asks again when another process was quicker.
Sends that arrive while an insert is in flight go together in the next one (group commit); an idle service inserts at once.
Reads of the newest messages do the same (`Finder`).
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from bson import ObjectId
from pymongo import ASCENDING, AsyncMongoClient, IndexModel, ReturnDocument, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, ConnectionFailure, DuplicateKeyError, PyMongoError

from chatlab.connections.driver_calls import CallOverdueError, DriverCalls
from chatlab.connections.mongo import PoolUsage
from chatlab.domain.ids import Conversation, UserId
from chatlab.domain.message import Draft, Message, from_document, now, text_digest
from chatlab.errors import ChatlabError, Conflict, StoreUnavailable
from chatlab.metrics import SAVE_BATCH, SAVE_SECONDS
from chatlab.protect.breaker import CircuitBreaker

log = logging.getLogger(__name__)

Document = dict[str, Any]
Finding = dict[Conversation, list["asyncio.Future[list[Document]]"]]  # who waits for the messages of which conversation
Result = TypeVar("Result")

PATIENCE_MS = 2000  # what one request waits for MongoDB at most
CALL_LIMIT_S = PATIENCE_MS / 1000 + 1  # for a driver that does not keep to its own timeout
LARGEST_BATCH = 500  # messages in one insert
REMEMBERED = 100_000  # conversations whose last seq is known
FINDS = 2  # questions for newest messages that may be in flight: MongoDB works on one while this process reads the other's answer
LARGEST_FIND = 16  # conversations in one of them
SMALL = 100  # messages of a conversation at most in one of several: all of them are one answer
LONG_READS = 4  # chunks of long histories that are read at the same time, so that other requests have their turn
CHUNK = 1000  # messages read from MongoDB at once: a whole history never stands in memory
DUPLICATE_KEY = 11000
LOOKS, LOOK_EVERY = 20, 0.5  # looks at an answering MongoDB for an insert whose outcome nobody has learnt, and seconds between two

INDEXES: dict[str, list[IndexModel]] = {
    "messages": [
        IndexModel([("conversation", ASCENDING), ("seq", ASCENDING)], unique=True, name="place"),
        IndexModel(
            [("conversation", ASCENDING), ("senderId", ASCENDING), ("clientId", ASCENDING)],
            unique=True,
            name="once",
            partialFilterExpression={"clientId": {"$type": "string"}},
        ),
    ],
    "sessions": [IndexModel([("expiresAt", ASCENDING)], expireAfterSeconds=0, name="expiry")],
    "reads": [IndexModel([("userId", ASCENDING), ("conversation", ASCENDING)], unique=True, name="mark")],
}


class Saved(NamedTuple):
    """`first` is False for a message that an earlier send with this client id had saved. `began`: the clock when its save began."""

    message: Message
    first: bool
    began: int


class Store:
    """All that MongoDB knows. `clock` is the cache's, asked when a save begins.

    Every method raises StoreUnavailable when MongoDB does not answer, at once while the breaker is open.
    """

    def __init__(self, url: str, database: str, clock: Callable[[], int]) -> None:
        self.calls, self.pool = DriverCalls(CALL_LIMIT_S), PoolUsage()
        self._client: AsyncMongoClient[Document] = AsyncMongoClient(
            url,
            timeoutMS=PATIENCE_MS,
            serverSelectionTimeoutMS=PATIENCE_MS,
            connectTimeoutMS=PATIENCE_MS,
            appname="chatlab",
            event_listeners=[self.pool],
        )
        durable = WriteConcern(w="majority", j=True)
        self._database = self._client.get_database(database, write_concern=durable)
        self._messages, self._users = self._database["messages"], self._database["users"]
        self._sessions, self._reads = self._database["sessions"], self._database["reads"]
        self._clock = clock
        self.breaker = CircuitBreaker("MongoDB", self._probe)
        self.doubts = Doubts(self, clock)
        self._long_reads = asyncio.Semaphore(LONG_READS)
        self._saver, self._finder = Saver(self, self.doubts, clock), Finder(self)

    @property
    def unsaved(self) -> int:
        """The number of messages that wait to be saved."""
        return self._saver.waiting

    # --- life ----------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the indexes. While MongoDB is away the store is open all the same, and makes them when it comes."""
        try:
            await self._probe()
        except (PyMongoError, CallOverdueError) as error:
            self.breaker.trip(error)

    async def _probe(self) -> None:
        for name, indexes in INDEXES.items():
            await self.calls.run(self._database[name].create_indexes(indexes))

    async def ping(self) -> None:
        await self.ask(self._client.admin.command("ping"))

    async def close(self) -> None:
        """Save what is waiting, let the calls that are under way return, and close the connections."""
        await self._saver.drain()
        await self.doubts.close()
        await self.breaker.close()
        await self.calls.drain()
        await self.calls.run(self._client.close())

    async def ask(self, question: Coroutine[Any, Any, Result], *, slots: asyncio.Semaphore | None = None) -> Result:
        """Return the answer of MongoDB to one call of the driver. Raises StoreUnavailable."""
        if self.breaker.is_open:
            question.close()
            raise StoreUnavailable
        try:
            return await self.calls.run(question, slots=slots)
        except (DuplicateKeyError, BulkWriteError):
            raise
        except (PyMongoError, CallOverdueError) as error:
            raise self.unavailable(error) from error

    async def _all(self, cursor: AsyncCursor[Document] | AsyncCommandCursor[Document]) -> list[Document]:
        """Return all documents of a cursor, and close it whatever happens."""
        async with cursor:
            return await cursor.to_list()

    async def _ask_all(self, cursor: AsyncCursor[Document]) -> list[Document]:
        return await self.ask(self._all(cursor))

    def unavailable(self, error: PyMongoError | CallOverdueError) -> StoreUnavailable:
        """Return what a failure means to a caller. A failure of the connection opens the breaker."""
        if isinstance(error, CallOverdueError | ConnectionFailure) or error.timeout:
            self.breaker.trip(error)
        else:
            log.error("MongoDB refused: %s", type(error).__name__, exc_info=error)
        return StoreUnavailable()

    # --- messages ------------------------------------------------------------------------------------------------------------

    async def save(self, draft: Draft) -> Saved:
        """Save for good and give it its place. Raises Conflict if its client id was used for another text."""
        return await self._saver.save(draft)

    async def message(self, message_id: str) -> Message | None:
        found = await self.ask(self._messages.find_one({"_id": ObjectId(message_id)}))
        return from_document(found) if found else None

    async def those_there(self, ids: list[ObjectId]) -> list[Message]:
        """The messages that have these ids, as far as they are there."""
        return [from_document(found) for found in await self._ask_all(self._messages.find({"_id": {"$in": ids}}))]

    async def sent_as(self, draft: Draft) -> Message:
        """The message that this draft's client id stands for. Raises Conflict if it was sent with another text (edits do not count)."""
        named = {"$eq": draft.client_id, "$type": "string"}  # the type is told, or MongoDB does not take the index `once`
        wanted = {"conversation": draft.conversation, "senderId": draft.sender, "clientId": named}
        found = await self.ask(self._messages.find_one(wanted))
        if found is None:  # refused for one that is not there: somebody has taken it away by hand
            raise StoreUnavailable
        if found["clientText"] != text_digest(draft.text):
            raise _other_text()
        return from_document(found)

    async def stretch(self, conversation: Conversation, lowest: int, highest: int | None, limit: int) -> list[Message]:
        """At most `limit` messages from seq `lowest` up, none above `highest`; oldest first."""
        found = await self._ask_all(self._in_order(conversation, lowest, highest, limit))
        return [from_document(document) for document in found]

    def _in_order(self, conversation: Conversation, lowest: int, highest: int | None, limit: int) -> AsyncCursor[Document]:
        place: Document = {"$gte": lowest} if highest is None else {"$gte": lowest, "$lte": highest}
        return self._messages.find({"conversation": conversation, "seq": place}).sort("seq", 1).limit(limit).batch_size(limit)

    async def newest(self, conversation: Conversation, limit: int, below: int | None = None) -> list[Message]:
        """The last `limit` messages (below seq `below`); oldest first."""
        if below is None and limit <= SMALL:
            found = await self._finder.newest(conversation, limit)
        else:
            found = await self.find_newest({"conversation": conversation} | ({} if below is None else {"seq": {"$lt": below}}), limit)
        return [from_document(document) for document in reversed(found)]

    async def find_newest(self, wanted: Document, limit: int) -> list[Document]:
        """Newest first."""
        return await self._ask_all(self._messages.find(wanted).sort("seq", -1).limit(limit).batch_size(limit))

    async def find_newest_of_each(self, conversations: list[Conversation], limit: int) -> dict[Conversation, list[Document]]:
        """The same for several conversations, in one question."""
        theirs: list[Document] = [
            {"$match": {"$expr": {"$eq": ["$conversation", "$$conversation"]}}},
            {"$sort": {"seq": -1}},
            {"$limit": limit},
        ]
        found = {"from": "messages", "let": {"conversation": "$_id"}, "pipeline": theirs, "as": "found"}
        pipeline: list[Document] = [{"$documents": [{"_id": name} for name in conversations]}, {"$lookup": found}]
        rows = await self.ask(self._aggregate(self._database, pipeline))
        return {row["_id"]: row["found"] for row in rows}

    async def chunks(self, conversation: Conversation, lowest: int, highest: int | None) -> AsyncIterator[list[Message]]:
        """A stretch of any length, CHUNK messages at a time."""
        while highest is None or lowest <= highest:
            chunk = await self._chunk(conversation, lowest, highest)
            if chunk:
                yield chunk
            if len(chunk) < CHUNK:
                return
            lowest = chunk[-1].seq + 1

    async def _chunk(self, conversation: Conversation, lowest: int, highest: int | None) -> list[Message]:
        cursor = self._in_order(conversation, lowest, highest, CHUNK)
        await self._long_reads.acquire()
        if self.breaker.is_open:
            self._long_reads.release()
            raise StoreUnavailable
        return [from_document(document) for document in await self.ask(self._all(cursor), slots=self._long_reads)]

    async def last_seqs(self, conversations: list[Conversation]) -> dict[Conversation, int]:
        """The newest seq of each; those without a message are left out. One index seek a conversation."""
        pipeline: list[Document] = [
            {"$match": {"conversation": {"$in": conversations}}},
            {"$sort": {"conversation": -1, "seq": -1}},  # with $first: MongoDB then skips from one conversation to the next
            {"$group": {"_id": "$conversation", "seq": {"$first": "$seq"}}},
        ]
        rows = await self.ask(self._aggregate(self._messages, pipeline))
        return {row["_id"]: row["seq"] for row in rows}

    async def insert(self, documents: list[Document]) -> None:
        """One unordered insert. Raises BulkWriteError for those that an index refused."""
        await self.ask(self._messages.insert_many(documents, ordered=False))

    async def change(self, message_id: str, condition: Document, change: Document) -> Message | None:
        """Change a message that is not deleted and meets the condition; its version grows. None when there is no such message."""
        wanted = {"_id": ObjectId(message_id), "deletedAt": None} | condition
        change = change | {"$inc": {"version": 1}}
        found = await self.ask(self._messages.find_one_and_update(wanted, change, return_document=ReturnDocument.AFTER))
        return from_document(found) if found else None

    async def _aggregate(self, of: AsyncCollection[Document] | AsyncDatabase[Document], pipeline: list[Document]) -> list[Document]:
        return await self._all(await of.aggregate(pipeline))

    # --- users and sessions --------------------------------------------------------------------------------------------------

    async def add_user(self, user: Document) -> None:
        """Raises Conflict when the name is taken."""
        try:
            await self.ask(self._users.insert_one(user))
        except DuplicateKeyError:
            raise Conflict("username: this name is taken.") from None

    async def user(self, user_id: str) -> Document | None:
        return await self.ask(self._users.find_one({"_id": user_id}))

    async def users(self) -> list[Document]:
        return await self._ask_all(self._users.find({}, {"passwordHash": 0}).sort("_id", 1))

    async def add_session(self, token_hash: str, user_id: UserId, days: float) -> None:
        await self.ask(self._sessions.insert_one({"_id": token_hash, "userId": user_id, "expiresAt": now() + timedelta(days=days)}))

    async def sessions(self, token_hashes: list[str]) -> dict[str, UserId]:
        """The user of each of these sessions that lives."""
        wanted = {"_id": {"$in": token_hashes}, "expiresAt": {"$gt": now()}}
        return {row["_id"]: row["userId"] for row in await self._ask_all(self._sessions.find(wanted))}

    async def end_session(self, token_hash: str) -> None:
        await self.ask(self._sessions.delete_one({"_id": token_hash}))

    # --- read marks ----------------------------------------------------------------------------------------------------------

    async def mark_read(self, user_id: UserId, conversation: Conversation, seq: int) -> bool:
        """Move a user's mark forward; False when it already stood there or further."""
        mark = {"userId": user_id, "conversation": conversation}
        try:
            done = await self.ask(self._reads.update_one(mark | {"seq": {"$lt": seq}}, {"$set": {"seq": seq}}, upsert=True))
        except DuplicateKeyError:  # the mark exists and is not lower
            return False
        return bool(done.modified_count or done.upserted_id)

    async def marks(self, user_id: UserId) -> dict[Conversation, int]:
        return {row["conversation"]: row["seq"] for row in await self._ask_all(self._reads.find({"userId": user_id}))}

    async def marks_of_others(self, conversations: Mapping[str, Conversation]) -> dict[Conversation, int]:
        """How far the other one of each conversation has read; `conversations` by the other one's id."""
        wanted = {"userId": {"$in": list(conversations)}, "conversation": {"$in": list(conversations.values())}}
        return {
            row["conversation"]: row["seq"]
            for row in await self._ask_all(self._reads.find(wanted))
            if conversations[row["userId"]] == row["conversation"]
        }

    async def latest(self, conversations: list[Conversation]) -> dict[Conversation, Message]:
        """The newest message of each conversation that has one."""
        places = [{"conversation": name, "seq": seq} for name, seq in (await self.last_seqs(conversations)).items()]
        if not places:
            return {}
        found = await self._ask_all(self._messages.find({"$or": places}))
        return {document["conversation"]: from_document(document) for document in found}

    async def unread(self, user_id: UserId, above: Mapping[Conversation, int]) -> dict[Conversation, int]:
        """How many messages to this user stand above a seq, for each conversation that has any."""
        if not above:
            return {}
        places = [{"conversation": name, "seq": {"$gt": seq}} for name, seq in above.items()]
        pipeline: list[Document] = [
            {"$match": {"$or": places, "receiverId": user_id}},
            {"$group": {"_id": "$conversation", "count": {"$sum": 1}}},
        ]
        return {row["_id"]: row["count"] for row in await self.ask(self._aggregate(self._messages, pipeline))}


class _Waiting(NamedTuple):
    draft: Draft
    saved: "asyncio.Future[Saved]"


class Saver:
    """Group commit: one insert in flight, at most one message of a conversation in it, so that a refusal leaves no hole in a seq."""

    def __init__(self, store: Store, doubts: "Doubts", clock: Callable[[], int]) -> None:
        self._store, self._doubts, self._clock = store, doubts, clock
        self._waiting: dict[Conversation, deque[_Waiting]] = {}
        self._last: OrderedDict[Conversation, int] = OrderedDict()
        self._same: dict[tuple[str, ...], _Waiting] = {}  # client ids on their way
        self._running: asyncio.Task[None] | None = None

    async def save(self, draft: Draft) -> Saved:
        """Wait for the commit that holds this draft. A caller that gives up leaves the commit alone."""
        if self._store.breaker.is_open:
            raise StoreUnavailable
        if draft.client_id is None:
            return await self._enqueue(draft).saved
        key = (draft.conversation, draft.sender, draft.client_id)
        earlier = self._same.get(key)
        if earlier is None:
            return await self._enqueue_once(key, draft)
        saved = await asyncio.shield(earlier.saved)
        if earlier.draft.text != draft.text:
            raise _other_text()
        return saved._replace(first=False)

    async def _enqueue_once(self, key: tuple[str, ...], draft: Draft) -> Saved:
        waiting = self._same[key] = self._enqueue(draft)
        waiting.saved.add_done_callback(lambda _: self._same.pop(key))
        return await asyncio.shield(waiting.saved)  # others may wait for it too

    def _enqueue(self, draft: Draft) -> "_Waiting":
        waiting = _Waiting(draft, asyncio.get_running_loop().create_future())
        waiting.saved.add_done_callback(lambda done: done.cancelled() or done.exception())  # a caller that has gone leaves nothing unheard
        self._waiting.setdefault(draft.conversation, deque()).append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())
        return waiting

    async def drain(self) -> None:
        """Wait until everything is saved or refused. A caller that gives up leaves the saves alone."""
        if self._running:
            await asyncio.wait((self._running,))

    @property
    def waiting(self) -> int:
        """The number of messages that wait to be saved."""
        return sum(map(len, self._waiting.values()))

    async def _run(self) -> None:
        while self._waiting:
            await self._commit(self._take())

    def _take(self) -> list[_Waiting]:
        """The first message of each conversation that waits."""
        batch = []
        for conversation in list(itertools.islice(self._waiting, LARGEST_BATCH)):
            line = self._waiting.pop(conversation)
            batch.append(line.popleft())
            if line:  # behind those that have not had their turn
                self._waiting[conversation] = line
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        try:
            await self._learn([waiting.draft.conversation for waiting in batch])
            began, started = self._clock(), time.perf_counter()
            documents = [waiting.draft.document(self._last.get(waiting.draft.conversation, 0) + 1) for waiting in batch]
            refused = await self._insert(documents)
            SAVE_SECONDS.observe(time.perf_counter() - started)
            SAVE_BATCH.observe(len(batch))
            for place, (waiting, document) in enumerate(zip(batch, documents, strict=True)):
                if place not in refused:
                    self._remember(waiting.draft.conversation, document["seq"])
                    _resolve(waiting, Saved(from_document(document), True, began))
            for place, index in refused.items():
                await self._refused(batch[place], index, began)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            for waiting in batch:  # the outcome is unknown: ask for the last seq again
                self._last.pop(waiting.draft.conversation, None)
                _fail(waiting, error)

    async def _learn(self, conversations: list[Conversation]) -> None:
        unknown = [conversation for conversation in conversations if conversation not in self._last]
        if unknown:
            found = await self._store.last_seqs(unknown)
            for conversation in unknown:
                self._remember(conversation, found.get(conversation, 0))

    def _remember(self, conversation: Conversation, seq: int) -> None:
        self._last[conversation] = seq
        self._last.move_to_end(conversation)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)

    async def _insert(self, documents: list[Document]) -> dict[int, str]:
        """Insert; the places in the batch that a unique index refused, with the index. Any other failure is one of the whole batch."""
        try:
            await self._store.insert(documents)
        except StoreUnavailable:
            self._doubts.about(documents)
            raise
        except BulkWriteError as error:
            refusals = error.details["writeErrors"]
            if error.details["writeConcernErrors"] or any(refusal["code"] != DUPLICATE_KEY for refusal in refusals):
                self._doubts.about(documents)
                raise self._store.unavailable(error) from error
            return {refusal["index"]: "place" if "seq" in refusal["keyPattern"] else "once" for refusal in refusals}
        return {}

    async def _refused(self, waiting: _Waiting, index: str, began: int) -> None:
        if index == "once":
            try:
                _resolve(waiting, Saved(await self._store.sent_as(waiting.draft), False, began))
            except Conflict as conflict:
                _fail(waiting, conflict)
        else:  # another process was quicker: ask for the last seq and try again, before those that came later
            self._last.pop(waiting.draft.conversation, None)
            self._waiting.setdefault(waiting.draft.conversation, deque()).appendleft(waiting)


class Finder:
    """Reads of newest messages: those that arrive while FINDS questions are in flight go together in the next one.

    A question costs the driver 140 us and MongoDB 100 us before the first message of it; 16 conversations in one share that.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[tuple[int, Conversation], list[asyncio.Future[list[Document]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def newest(self, conversation: Conversation, limit: int) -> list[Document]:
        """Newest first, as of a moment after this call. One who gives up leaves the question alone."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Document]] = loop.create_future()
        self._waiting.setdefault((limit, conversation), []).append(found)
        if len(self._running) < FINDS:
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await found

    async def _run(self) -> None:
        while self._waiting:
            limit, waiting = self._take()
            try:
                found = await self._find(list(waiting), limit)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                _fail_all(waiting, error)
            else:
                _answer_all(waiting, found)

    def _take(self) -> tuple[int, Finding]:
        """The first of those that wait, and others that ask for as many messages."""
        limit, _ = next(iter(self._waiting))
        some = itertools.islice((key for key in self._waiting if key[0] == limit), LARGEST_FIND)
        return limit, {key[1]: self._waiting.pop(key) for key in list(some)}

    async def _find(self, conversations: list[Conversation], limit: int) -> dict[Conversation, list[Document]]:
        if len(conversations) > 1:
            return await self._store.find_newest_of_each(conversations, limit)
        (conversation,) = conversations
        return {conversation: await self._store.find_newest({"conversation": conversation}, limit)}


class Doubts:
    """Inserts that were answered "unavailable" and may have been done all the same, at once or when a frozen MongoDB goes on.

    They are looked for until they are found or have not come for LOOKS looks; each that is found is given to `found`, once, with the clock
    before the look. The doubts of a process die with it.
    """

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self.found: Callable[[Message, int], Awaitable[None]] | None = None
        self._store, self._clock = store, clock
        self._left: OrderedDict[ObjectId, int] = OrderedDict()  # looks
        self._looking: asyncio.Task[None] | None = None

    def about(self, documents: list[Document]) -> None:
        self._left.update((document["_id"], LOOKS) for document in documents)
        while len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._left:
            await asyncio.sleep(LOOK_EVERY)
            began, ids = self._clock(), list(self._left)[:CHUNK]
            try:
                messages = await self._store.those_there(ids)
            except StoreUnavailable:
                continue
            self._count_down(ids)
            for message in messages:
                self._left.pop(ObjectId(message.id), None)
                if self.found:
                    await self.found(message, began)

    def _count_down(self, ids: list[ObjectId]) -> None:
        for wanted in ids:
            if (left := self._left.pop(wanted, 0) - 1) > 0:
                self._left[wanted] = left


def _answer_all(waiting: Finding, found: dict[Conversation, list[Document]]) -> None:
    for conversation, futures in waiting.items():
        for future in futures:
            if not future.done():
                future.set_result(found[conversation])


def _fail_all(waiting: Finding, error: Exception) -> None:
    for future in itertools.chain(*waiting.values()):
        if not future.done():
            future.set_exception(error if isinstance(error, ChatlabError) else StoreUnavailable())


def _resolve(waiting: _Waiting, saved: Saved) -> None:
    if not waiting.saved.done():
        waiting.saved.set_result(saved)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.saved.done():
        waiting.saved.set_exception(error if isinstance(error, ChatlabError) else StoreUnavailable())


def _other_text() -> Conflict:
    return Conflict("clientId: this sender has already used it for another text in this conversation.")
