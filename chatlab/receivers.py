"""Who may receive messages of a user: all except deleted users and users who have blocked this one.

Each process remembers the blocks of the users that it has sent messages to, so that a send
needs no query. It forgets a user who blocks somebody or is deleted: at once if this process made
the change, and otherwise with the next check of any token, which brings the changes of other
processes (see `UserStore.find_sessions`). A sender's token was checked within TOKEN_CACHE_S
seconds, so a block takes effect everywhere within that time, like a log-out.
"""

from collections import OrderedDict

from chatlab.domain.ids import UserId
from chatlab.errors import Invalid, NotFound
from chatlab.protect.rate_limit import TokenBucket
from chatlab.store.users import Changes, UserList, UserStore

MAX_REMEMBERED = 100_000  # user ids: the receivers, and those that they have blocked
# Of one user, because every process must learn of each block.
BLOCKS_PER_S, MAX_BLOCKS_AT_ONCE = 1, 20


class Receivers:
    """Remembers which users a user may write to.

    A refusal is never remembered: for a receiver that is missing, is deleted or has blocked the
    sender, each attempt costs one query with an empty reply. So a blocked sender learns nothing
    from the answer or from its time.
    """

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._blocks = TokenBucket(BLOCKS_PER_S, MAX_BLOCKS_AT_ONCE)
        self._blocked: OrderedDict[str, frozenset[str]] = OrderedDict()  # by receiver
        self._remembered = 0  # user ids in `_blocked`
        self._version = 0  # of the changes that this process has learned
        self._forgotten = 0  # how often it has forgotten somebody

    async def require(self, sender: UserId, receiver: str) -> None:
        """Raise NotFound if the sender may not write to the receiver, or there is no such user."""
        blocked = self._blocked.get(receiver)
        if blocked is None or sender in blocked:
            await self._ask(sender, receiver)

    async def _ask(self, sender: UserId, receiver: str) -> None:
        forgotten = self._forgotten
        blocked = await self._store.find_blocked(receiver, sender)
        if blocked is None:
            raise NotFound("There is no such user.")
        # If somebody was forgotten during the query, its reply may be too old.
        if forgotten == self._forgotten:
            self._remember(receiver, frozenset(blocked))

    def learn(self, changes: Changes) -> None:
        """Forget the users of the changes that this process does not know yet."""
        missed = changes.version - self._version
        self._version = changes.version
        if 0 <= missed <= len(changes.recent):
            for user_id in changes.recent[len(changes.recent) - missed :]:
                self.forget(user_id)
        else:
            for user_id in list(self._blocked):
                self.forget(user_id)

    async def block(self, user_id: UserId, other: str) -> None:
        """Refuse messages of another user: here at once, in other processes within TOKEN_CACHE_S.

        Raises Invalid (oneself), Conflict (too many are blocked), RateLimited.
        """
        self._blocks.take(user_id)
        await self._add("blocked", user_id, other)
        await self.announce(user_id)

    async def unblock(self, user_id: UserId, other: str) -> None:
        """Accept messages of another user again. Every process asks before it refuses."""
        await self._store.remove_from_list(user_id, "blocked", other)

    async def mute(self, user_id: UserId, other: str) -> None:
        """Store that this user wants no notices of another one's messages.

        Raises Invalid (oneself), Conflict (too many are muted).
        """
        await self._add("muted", user_id, other)

    async def unmute(self, user_id: UserId, other: str) -> None:
        await self._store.remove_from_list(user_id, "muted", other)

    async def _add(self, name: UserList, user_id: UserId, other: str) -> None:
        if user_id == other:
            raise Invalid("userId: should be another user")
        await self._store.add_to_list(user_id, name, other)

    async def announce(self, user_id: UserId) -> None:
        """Forget a user who has blocked somebody or is deleted, here and in other processes."""
        self.forget(user_id)
        await self._store.note_change(user_id)

    def forget(self, user_id: str) -> None:
        self._forgotten += 1
        blocked = self._blocked.pop(user_id, None)
        if blocked is not None:
            self._remembered -= 1 + len(blocked)

    def _remember(self, receiver: str, blocked: frozenset[str]) -> None:
        self.forget(receiver)
        self._blocked[receiver] = blocked
        self._remembered += 1 + len(blocked)
        while self._remembered > MAX_REMEMBERED:
            self.forget(next(iter(self._blocked)))
