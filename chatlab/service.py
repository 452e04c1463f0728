"""The diagram. `send` and `read` go through its boxes, one after the other; the rest of the service is made of the same parts.

Knows the store, the cache and the broadcast; knows nothing of HTTP or Socket.IO. Who asks is always the session's user, never a payload.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from chatlab.accounts import Accounts
from chatlab.cache.cache import Cache, Glimpse
from chatlab.domain.ids import Conversation, UserId, conversation_of, participants_of
from chatlab.domain.message import Message, create_draft, now
from chatlab.domain.requests import Page
from chatlab.domain.trace import SILENT, Trace
from chatlab.errors import Conflict, Forbidden, Invalid, NotFound
from chatlab.metrics import READS
from chatlab.realtime.broadcast import Broadcast
from chatlab.settings import CacheMode
from chatlab.store.store import CHUNK, Document, Store

KINDS = 50  # of reactions on one message: all of them travel with each of its versions


Pieces = bytes | AsyncIterator[bytes]


class History(NamedTuple):
    """A stretch of a conversation, oldest first: one piece of JSON or many, each holding messages joined by commas. `cache`: X-Cache."""

    cache: str
    pieces: Pieces


class Service:
    def __init__(self, store: Store, cache: Cache, broadcast: Broadcast, accounts: Accounts) -> None:
        self._store, self._cache, self._broadcast, self._accounts = store, cache, broadcast, accounts
        self._reading: dict[tuple[Conversation, Page], _Query] = {}
        store.doubts.found = self._finish

    # --- the send flow -------------------------------------------------------------------------------------------------------

    async def send(self, sender: UserId, receiver: str, text: str, client_id: str | None = None, trace: Trace = SILENT) -> Message:
        """Create, save, cache the message, update the conversation's cache, emit; the answer is the door's.

        A repeat of a client id is answered with the first message and emits nothing. Raises NotFound, Conflict, StoreUnavailable.
        """
        await self._accounts.require_user(receiver)
        draft = create_draft(sender, UserId(receiver), text, client_id)
        trace.record("create", messageId=str(draft.id))

        message, first, began = await self._store.save(draft)
        trace.record("save", messageId=message.id)

        if not first:  # the first one may have stopped before it reached the window
            await self._cache.change(message, began)
            return message

        kept, appended = self._cache.keep(message, began), self._cache.append(message, began)  # one round trip for both
        self._record_cached(message, await kept, await appended, trace)

        await self._broadcast.emit("newMessage", message.json, participants_of(message.conversation))
        trace.record("emit", messageId=message.id)
        return message

    async def _finish(self, message: Message, began: int) -> None:
        """The rest of the way of a message whose sender was told "unavailable", and which was saved all the same.

        Its sender may have repeated it and been answered; the process that saved it emits it, unless it ends before (a hint is lost).
        """
        await self._cache.change(message, began)
        await self._broadcast.emit("newMessage", message.json, participants_of(message.conversation))

    async def _recache(self, message: Message, began: int, trace: Trace) -> None:
        """Bring the cache up to a message that is newer than what it may hold."""
        kept, changed = self._cache.keep_changed(message, began), self._cache.change(message, began)
        self._record_cached(message, await kept, await changed, trace)

    def _record_cached(self, message: Message, kept: bool, in_window: bool, trace: Trace) -> None:
        if kept:
            trace.record("cache_message", key=self._cache.keys.message(message.id), ttlMs=self._cache.ttl_ms, messageId=message.id)
        if in_window:
            trace.record("cache_conversation", key=self._cache.keys.window(message.conversation), messageId=message.id)

    # --- the read flow -------------------------------------------------------------------------------------------------------

    async def read(self, reader: UserId, other: str, page: Page, *, fresh: bool = False, trace: Trace = SILENT) -> History:
        """The conversation with another user. `fresh` asks MongoDB only. Raises NotFound, StoreUnavailable."""
        await self._accounts.require_user(other)
        conversation = conversation_of(reader, other)
        glimpse = None
        if not fresh and self._cache.mode is CacheMode.WINDOW:
            glimpse = await self._cache.glimpse(conversation, page)
        if glimpse is None:
            history = await self._from_store(conversation, page, "bypass")
        else:
            trace.record("read_cache", key=self._cache.keys.window(conversation))
            history = await self._through_window(conversation, page, glimpse)
        if history.cache != "hit":
            trace.record("read_store")
        READS[history.cache].inc()
        return history

    async def _through_window(self, conversation: Conversation, page: Page, glimpse: Glimpse) -> History:
        if glimpse.covers:
            return History("hit", glimpse.joined)
        if not glimpse.there:
            return await self._miss(conversation, page, glimpse)
        missing = Page(after=glimpse.lowest - 1, before=min(glimpse.highest + 1, glimpse.oldest))
        if glimpse.oldest - glimpse.lowest > CHUNK:  # too much to hold: as it comes, and nothing to widen a window with
            return History("partial" if glimpse.joined else "miss", self._long(conversation, missing, glimpse.joined))
        older = await self._shared(conversation, missing, glimpse, widen=True)
        return History("partial" if glimpse.joined else "miss", b",".join(filter(None, (_joined(older), glimpse.joined))))

    async def _miss(self, conversation: Conversation, page: Page, glimpse: Glimpse) -> History:
        if page.before is not None or (page.limit or 0) > CHUNK:  # not the newest stretch, or more than fits: no window comes of it
            return await self._from_store(conversation, page, "miss")
        known = await self._shared(conversation, page, glimpse, widen=False)
        return History("miss", self._whole(conversation, page, known))

    async def _from_store(self, conversation: Conversation, page: Page, outcome: str) -> History:
        """The page from MongoDB alone, in bounded memory. The first query is made here, so that an outage is still an answer."""
        if (page.limit or 0) <= CHUNK:
            return History(outcome, self._whole(conversation, page, await self._page(conversation, page)))
        pieces = self._pieces(conversation, *await self._bounds(conversation, page))
        return History(outcome, _then(await anext(pieces, b""), pieces))

    def _whole(self, conversation: Conversation, page: Page, known: list[Message]) -> Pieces:
        """The page of which `known` is one CHUNK at most: with an `after` its first messages, else its last."""
        if page.limit is not None or len(known) < CHUNK:
            return _joined(known)
        if page.after is None:
            return self._long(conversation, Page(after=0, before=known[0].seq), _joined(known))
        highest = None if page.before is None else page.before - 1
        return _then(_joined(known), self._pieces(conversation, known[-1].seq + 1, highest))

    async def _bounds(self, conversation: Conversation, page: Page) -> tuple[int, int]:
        """Lowest and highest seq of a limited page."""
        last = (await self._store.last_seqs([conversation])).get(conversation, 0)
        lowest = 1 if page.after is None else page.after + 1
        highest = last if page.before is None else min(last, page.before - 1)
        limit = page.limit or last
        return (max(lowest, highest - limit + 1), highest) if page.after is None else (lowest, min(highest, lowest + limit - 1))

    async def _page(self, conversation: Conversation, page: Page) -> list[Message]:
        """At most CHUNK messages of a page: the first ones behind `after`, else the newest ones."""
        limit = page.limit or CHUNK
        if page.after is not None:
            return await self._store.stretch(conversation, page.after + 1, None if page.before is None else page.before - 1, limit)
        return await self._store.newest(conversation, limit, page.before)

    async def _pieces(self, conversation: Conversation, lowest: int, highest: int | None) -> AsyncIterator[bytes]:
        async for chunk in self._store.chunks(conversation, lowest, highest):
            yield _joined(chunk)

    async def _long(self, conversation: Conversation, missing: Page, newest: bytes) -> AsyncIterator[bytes]:
        assert missing.after is not None
        assert missing.before is not None
        async for piece in self._pieces(conversation, missing.after + 1, missing.before - 1):
            yield piece
        yield newest

    async def _shared(self, conversation: Conversation, page: Page, glimpse: Glimpse, *, widen: bool) -> list[Message]:
        """Ask MongoDB and fill the window. Readers that miss the same page share a query that began after every change they must see."""
        key = (conversation, page)
        query = self._reading.get(key)
        if query is None or not query.may_serve(glimpse, self._cache.epoch, self._cache.grace_ms):
            query = _Query(glimpse.token, asyncio.create_task(self._ask_and_fill(conversation, page, glimpse, widen=widen)))
            self._reading[key] = query
            query.messages.add_done_callback(lambda _: self._reading.pop(key) if self._reading.get(key) is query else None)
        return await asyncio.shield(query.messages)

    async def _ask_and_fill(self, conversation: Conversation, page: Page, glimpse: Glimpse, *, widen: bool) -> list[Message]:
        messages = await self._page(conversation, page)
        reaches_the_end = widen or page.after is None or len(messages) < (page.limit or CHUNK)
        if reaches_the_end:
            await self._cache.fill(conversation, glimpse.token, messages, widen=widen, room=self._cache.room(glimpse))
        return messages

    # --- changes -------------------------------------------------------------------------------------------------------------

    async def edit(self, user: UserId, message_id: str, text: str, trace: Trace = SILENT) -> Message:
        """A new text, by the sender only. Raises NotFound, Forbidden, Conflict (deleted)."""
        await self._may(user, message_id, as_sender=True)
        return await self._change(message_id, {}, {"$set": {"text": text, "editedAt": now()}}, trace)

    async def delete(self, user: UserId, message_id: str, trace: Trace = SILENT) -> Message:
        """An empty text in the same place, by the sender only; deleting twice is the same as once."""
        await self._may(user, message_id, as_sender=True)
        return await self._change(message_id, {}, {"$set": {"text": "", "reactions": {}, "deletedAt": now()}}, trace, again=True)

    async def react(self, user: UserId, message_id: str, emoji: str, trace: Trace = SILENT) -> Message:
        """Add a participant's reaction; adding it twice is the same as once."""
        message = await self._may(user, message_id)
        if emoji not in message.reactions and len(message.reactions) >= KINDS:
            raise Conflict(f"The message has {KINDS} kinds of reactions already; add to one of these.")
        held = f"reactions.{emoji}"
        return await self._change(message_id, {held: {"$ne": user}}, {"$push": {held: user}}, trace)

    async def unreact(self, user: UserId, message_id: str, emoji: str, trace: Trace = SILENT) -> Message:
        """Take a participant's reaction back; one that is not there is no error."""
        await self._may(user, message_id)
        held = f"reactions.{emoji}"
        return await self._change(message_id, {held: user}, {"$pull": {held: user}}, trace)

    async def _may(self, user: UserId, message_id: str, *, as_sender: bool = False) -> Message:
        """Only participants see a message, and only its sender may rewrite it. Who they are never changes, so the cache may answer."""
        message = await self._cache.message(message_id) or await self._store.message(message_id)
        if message is None or user not in participants_of(message.conversation):
            raise NotFound("There is no such message.")
        if as_sender and message.sender_id != user:
            raise Forbidden("Only the sender may change this message.")
        return message

    async def _change(self, message_id: str, condition: Document, change: Document, trace: Trace, *, again: bool = False) -> Message:
        """Change, cache, emit. A change that would change nothing does nothing; `again`: also on a deleted message."""
        began = self._cache.clock()
        message = await self._store.change(message_id, condition, change)
        trace.record("save", messageId=message_id)
        if message is None:
            return await self._as_it_is(message_id, again=again)
        await self._recache(message, began, trace)
        await self._broadcast.emit("messageUpdated", message.json, participants_of(message.conversation))
        trace.record("emit", messageId=message_id)
        return message

    async def _as_it_is(self, message_id: str, *, again: bool) -> Message:
        message = await self._store.message(message_id)
        if message is None:
            raise NotFound("There is no such message.")
        if message.deleted_at and not again:
            raise Conflict("The message has been deleted.")
        return message

    # --- people --------------------------------------------------------------------------------------------------------------

    async def people(self, user: UserId) -> list[Document]:
        """The other users with `online`, `unread`, `lastMessage` and `readUpTo`; the one last written with first, then by id."""
        others = await self._accounts.other_users(user)
        conversations = {other["id"]: conversation_of(user, other["id"]) for other in others}
        latest, marks, theirs = await asyncio.gather(
            self._store.latest(list(conversations.values())), self._store.marks(user), self._store.marks_of_others(conversations)
        )
        above = {name: marks.get(name, 0) for name, message in latest.items() if message.seq > marks.get(name, 0)}
        unread, online = await self._store.unread(user, above), set(self._broadcast.presence.online())
        rows = [
            other
            | {"online": other["id"] in online, "unread": unread.get(name, 0)}
            | {"lastMessage": latest.get(name), "readUpTo": theirs.get(name, 0)}
            for other in others
            for name in (conversations[other["id"]],)
        ]
        return sorted(rows, key=lambda row: row["lastMessage"].created_at if row["lastMessage"] else "", reverse=True)

    async def mark_read(self, reader: UserId, other: str, seq: int) -> None:
        """The reader has seen everything up to `seq`. Raises Invalid for a seq that the conversation does not have yet."""
        await self._accounts.require_user(other)
        conversation = conversation_of(reader, other)
        if seq > (await self._store.last_seqs([conversation])).get(conversation, 0):
            raise Invalid("seq: should not be above the newest message of the conversation")
        if await self._store.mark_read(reader, conversation, seq):
            payload = {"userId": reader, "seq": seq, "conversation": conversation}
            await self._broadcast.emit("messagesRead", msgspec.json.encode(payload), participants_of(conversation))

    async def typing(self, user: UserId, receiver: str, *, typing: bool) -> None:
        """Tell the receiver's sockets."""
        await self._accounts.require_user(receiver)
        await self._broadcast.emit("typing", msgspec.json.encode({"userId": user, "typing": typing}), [UserId(receiver)])


class _Query(NamedTuple):
    """A question to MongoDB that is under way, and Redis's time before it was asked."""

    token: int
    messages: "asyncio.Task[list[Message]]"

    def may_serve(self, glimpse: Glimpse, epoch: int, grace: int) -> bool:
        """True when no change that the reader must see can have come after the question: it would have left a fence, or a window."""
        return self.token > max(glimpse.fence, epoch) and glimpse.token - self.token <= grace * 1000


def _joined(messages: list[Message]) -> bytes:
    return b",".join(message.json for message in messages)


async def _then(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
