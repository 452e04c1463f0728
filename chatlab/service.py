"""The send diagram of docs/cache-flow.md, and reads and changes: one stage after another.

The service knows the store, the cache and the broadcast, and nothing of HTTP or Socket.IO. The
acting user always comes from the session, never from a payload.
"""

import msgspec

from chatlab.accounts import Accounts
from chatlab.cache.cache import Cache
from chatlab.connections.mongo import Document
from chatlab.domain.ids import UserId, conversation_of, participants_of
from chatlab.domain.message import Message, create_draft, now
from chatlab.domain.requests import Page, Search
from chatlab.domain.trace import SILENT, Trace
from chatlab.errors import Conflict, Forbidden, Invalid, NotFound, StoreUnavailable
from chatlab.history import History, HistoryReader
from chatlab.metrics import READS
from chatlab.protect.read_limits import ReadLimits
from chatlab.realtime.broadcast import Broadcast
from chatlab.receivers import Receivers
from chatlab.search import MessageSearch
from chatlab.store.reactions import MAX_REACTION_KINDS, add_reaction, remove_reaction
from chatlab.store.store import Store


class Service:
    """What users can do.

    Every method that takes a trace records the stages that the request passes.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        broadcast: Broadcast,
        accounts: Accounts,
        receivers: Receivers,
        read_limits: ReadLimits,
    ) -> None:
        self._store, self._cache = store, cache
        self._broadcast = broadcast
        self._accounts, self._receivers = accounts, receivers
        self._history = HistoryReader(store.messages, cache, read_limits)
        self._stale_history = (
            HistoryReader(store.stale_messages, cache, read_limits)
            if store.stale_messages
            else None
        )
        self._search = MessageSearch(store.messages, read_limits)

    # --- send --------------------------------------------------------------------------------

    async def send(
        self,
        sender: UserId,
        receiver: str,
        text: str,
        client_id: str | None = None,
        trace: Trace = SILENT,
        *,
        reply_to: str | None = None,
    ) -> Message:
        """Send a message.

        A repeat with the same client id returns the first message and emits nothing.

        `reply_to` is the id of the message that this one answers. Raises NotFound (no such
        receiver, or the receiver has blocked the sender), Invalid (nothing to answer in this
        conversation), Conflict (the client id was used for another text), StoreUnavailable.
        """
        await self._receivers.require(sender, receiver)
        if reply_to and not await self._is_theirs(sender, receiver, reply_to):
            raise Invalid("replyTo: should be the _id of a message of this conversation")
        draft = create_draft(sender, UserId(receiver), text, client_id, reply_to)
        trace.record("create", messageId=str(draft.id))

        with self._broadcast.owed:
            message, is_new, began = await self._store.messages.save(draft)
            trace.record("save", messageId=message.id)

            if not is_new:  # the process that saved it may have died before it updated the window
                await self._cache.change_in_window(message, began)
                return message

            # Both calls give their command to the pipeline before the first await, so they share a
            # round trip.
            cached = self._cache.put_message(message, began)
            in_window = self._cache.append_to_window(message, began)
            self._record_cached(trace, message, await cached, await in_window)

            await self._emit("newMessage", message)
            trace.record("emit", messageId=message.id)
            return message

    # --- read --------------------------------------------------------------------------------

    async def read(
        self, reader: UserId, other: str, page: Page, *, fresh: bool = False, trace: Trace = SILENT
    ) -> History:
        """Return a page of the conversation with another user. `fresh` asks MongoDB only.

        Raises NotFound (no such user), RateLimited (the reader reads too much), StoreUnavailable.
        """
        await self._accounts.require_user(other)
        conversation = conversation_of(reader, other)

        snapshot = None if fresh else await self._cache.snapshot_window(conversation, page)
        if snapshot:
            trace.record("read_cache", key=self._cache.keys.window(conversation))

        try:
            history = await self._history.read(reader, conversation, page, snapshot)
        except StoreUnavailable:
            if self._stale_history is None:
                raise
            # From secondaries, without the cache: this must not fill a window.
            history = await self._stale_history.read(reader, conversation, page, snapshot=None)
            history = history._replace(outcome="stale")
        if history.outcome != "hit":
            trace.record("read_store")

        READS[history.outcome].inc()
        return history

    async def read_one(self, reader: UserId, other: str, message_id: str) -> Message:
        """Return one message of the conversation with another user. Raises NotFound.

        MongoDB is asked, because a message cache entry may lack a change.
        """
        await self._accounts.require_user(other)
        conversation = conversation_of(reader, other)
        message = await self._store.messages.find_in(conversation, message_id)
        if message is None:
            raise NotFound("There is no such message.")
        return message

    async def _is_theirs(self, user: UserId, other: str, message_id: str) -> bool:
        """Return whether the message belongs to the conversation of these two.

        That never changes, so any version of it is good enough.
        """
        conversation = conversation_of(user, other)
        message = await self._cache.message(message_id)
        message = message or await self._store.messages.find_in(conversation, message_id)
        return message is not None and message.conversation == conversation

    async def search(self, reader: UserId, other: str, asked: Search) -> list[Message]:
        """Return messages of the conversation with another user that contain a text, newest first.

        Raises NotFound (no such user), RateLimited (the reader reads too much), StoreUnavailable.
        """
        await self._accounts.require_user(other)
        return await self._search.find(reader, conversation_of(reader, other), asked)

    # --- change ------------------------------------------------------------------------------

    async def edit(
        self, user: UserId, message_id: str, text: str, trace: Trace = SILENT
    ) -> Message:
        """Replace the text. Raises NotFound, Forbidden (not the sender), Conflict (deleted)."""
        message = await self._authorize(user, message_id, as_sender=True)
        await self._require_receiver(user, message)
        change = {"$set": {"text": text, "editedAt": now()}}
        return await self._change(message, {}, change, trace)

    async def delete(self, user: UserId, message_id: str, trace: Trace = SILENT) -> Message:
        """Remove text and reactions; the message keeps its place.

        Deleting twice is allowed. Raises NotFound, Forbidden.
        """
        message = await self._authorize(user, message_id, as_sender=True)
        change = {"$set": {"text": "", "reactions": {}, "deletedAt": now()}}
        return await self._change(message, {}, change, trace, allow_deleted=True)

    async def react(
        self, user: UserId, message_id: str, emoji: str, trace: Trace = SILENT
    ) -> Message:
        """Add a reaction of a participant.

        Adding it twice is allowed. Raises NotFound, Conflict (deleted, too many kinds).
        """
        message = await self._authorize(user, message_id)
        await self._require_receiver(user, message)
        changed = await self._change(message, *add_reaction(emoji, user), trace)
        if user not in changed.reactions.get(emoji, ()):
            raise Conflict(
                f"The message has {MAX_REACTION_KINDS} kinds of reactions already; "
                "add to one of these."
            )
        return changed

    async def unreact(
        self, user: UserId, message_id: str, emoji: str, trace: Trace = SILENT
    ) -> Message:
        """Remove a reaction of a participant.

        Removing it twice is allowed. Raises NotFound, Conflict (deleted).
        """
        message = await self._authorize(user, message_id)
        return await self._change(message, *remove_reaction(emoji, user), trace)

    async def _authorize(
        self, user: UserId, message_id: str, *, as_sender: bool = False
    ) -> Message:
        """Return the message if the user is a participant, or with `as_sender` its sender.

        Participants never change, so any version is good enough: it is usually in the cache, and
        the change needs its conversation. Raises NotFound, Forbidden.
        """
        message = await self._cache.message(message_id)
        message = message or await self._store.messages.find(message_id)
        if message is None or user not in participants_of(message.conversation):
            raise NotFound("There is no such message.")
        if as_sender and message.sender_id != user:
            raise Forbidden("Only the sender may change this message.")
        return message

    async def _require_receiver(self, user: UserId, message: Message) -> None:
        """Raise NotFound if the other participant does not receive what this user writes."""
        for receiver in participants_of(message.conversation):
            if receiver != user:
                await self._receivers.require(user, receiver)

    async def _change(
        self,
        message: Message,
        condition: Document,
        change: Document | list[Document],
        trace: Trace,
        *,
        allow_deleted: bool = False,
    ) -> Message:
        """Change a message that meets the condition.

        If it does not meet it, return it as it is and emit nothing.
        """
        with self._broadcast.owed:
            began = self._cache.now_us()
            changed = await self._store.messages.change(message, condition, change)
            trace.record("save", messageId=message.id)

            if changed is None:
                return await self._unchanged(message, allow_deleted=allow_deleted)

            cached = self._cache.put_changed_message(changed, began)
            in_window = self._cache.change_in_window(changed, began)  # shares the round trip
            self._record_cached(trace, changed, await cached, await in_window)

            await self._emit("messageUpdated", changed)
            trace.record("emit", messageId=changed.id)
            return changed

    async def _unchanged(self, message: Message, *, allow_deleted: bool) -> Message:
        current = await self._store.messages.find_again(message)
        if current is None:
            raise NotFound("There is no such message.")
        if current.deleted_at and not allow_deleted:
            raise Conflict("The message has been deleted.")
        return current

    # --- stages that send and change share ---------------------------------------------------

    def _record_cached(
        self, trace: Trace, message: Message, is_cached: bool, is_in_window: bool
    ) -> None:
        if trace is SILENT:  # building the names of the keys would cost 1 us
            return
        if is_cached:
            key, ttl_ms = self._cache.keys.message(message.id), self._cache.ttls.entry_ms
            trace.record("cache_message", key=key, ttlMs=ttl_ms, messageId=message.id)
        if is_in_window:
            key = self._cache.keys.window(message.conversation)
            trace.record("cache_conversation", key=key, messageId=message.id)

    async def _emit(self, event: str, message: Message) -> None:
        await self._broadcast.emit(event, message.json, participants_of(message.conversation))

    # --- read marks, typing, blocks --------------------------------------------------------

    async def mark_read(self, reader: UserId, other: str, seq: int) -> None:
        """Record that the reader has seen all messages up to `seq`.

        Raises Invalid for a seq that does not exist yet.
        """
        await self._accounts.require_user(other)
        conversation = conversation_of(reader, other)
        if seq > (await self._store.messages.find_last_seqs([conversation])).get(conversation, 0):
            raise Invalid("seq: should not be above the newest message of the conversation")
        with self._broadcast.owed:
            if await self._store.conversations.mark_read(reader, conversation, seq):
                payload = {"userId": reader, "seq": seq, "conversation": conversation}
                encoded = msgspec.json.encode(payload)
                await self._broadcast.emit("messagesRead", encoded, participants_of(conversation))

    async def typing(self, user: UserId, receiver: str, *, typing: bool) -> None:
        """Emit to the receiver that the user types, or has stopped. Raises NotFound."""
        await self._receivers.require(user, receiver)
        payload = msgspec.json.encode({"userId": user, "typing": typing})
        await self._broadcast.emit("typing", payload, [UserId(receiver)])

    async def block(self, user: UserId, other: str) -> None:
        """Refuse what another user writes to this one. Raises NotFound, Invalid, Conflict."""
        await self._accounts.require_user(other)
        await self._receivers.block(user, other)

    async def unblock(self, user: UserId, other: str) -> None:
        await self._accounts.require_user(other)
        await self._receivers.unblock(user, other)

    async def mute(self, user: UserId, other: str) -> None:
        """Store that this user wants no notices of another one's messages.

        Raises NotFound, Invalid, Conflict.
        """
        await self._accounts.require_user(other)
        await self._receivers.mute(user, other)

    async def unmute(self, user: UserId, other: str) -> None:
        await self._accounts.require_user(other)
        await self._receivers.unmute(user, other)


async def finish_write(
    cache: Cache,
    broadcast: Broadcast,
    message: Message,
    began: int,
    is_new: bool,
) -> None:
    """Update the window and emit a message whose sender was told that MongoDB is unavailable.

    The message, or a change of it, turned out to be saved. The sender may have repeated the request
    and received this message. Only the process that saved it emits it.
    """
    event = "newMessage" if is_new else "messageUpdated"
    with broadcast.owed:
        await cache.change_in_window(message, began)
        await broadcast.emit(event, message.json, participants_of(message.conversation))
