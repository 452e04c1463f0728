"""Sessions: which token belongs to which user, and until when.

Tokens are stored as SHA-256 hashes and never logged. Each process caches valid tokens for
TOKEN_CACHE_S seconds, so that most requests need no session query. A log-out in another process
therefore takes effect here within that time.
"""

import asyncio
import hashlib
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from chatlab.connections.mongo import Document
from chatlab.domain.ids import UserId
from chatlab.domain.message import rfc3339
from chatlab.errors import NotFound, StoreUnavailable, Unauthenticated
from chatlab.protect.batcher import Batcher, Callers, Waiting
from chatlab.protect.rate_limit import TokenBucket
from chatlab.receivers import Receivers
from chatlab.settings import Settings
from chatlab.store.users import UserStore

TOKEN_CACHE_S = 5.0
# With stale reads, a token that was valid so recently is accepted while MongoDB has no primary.
STALE_TOKEN_S = 60.0
# When many clients reconnect at the same time. The requests of one query continue together, so it
# must not be too large.
MAX_TOKENS_PER_QUERY = 50
MAX_TOKENS_PER_CHECK = 500  # of open sockets
MAX_CACHED = 100_000  # tokens in the caches of a process
MAX_USER_AGENT = 200  # characters


class Sessions:
    """Starts, checks and ends sessions. `receivers` learns the changes that each check brings."""

    def __init__(self, store: UserStore, receivers: Receivers, settings: Settings) -> None:
        self._store, self._receivers, self._days = store, receivers, settings.session_days
        self._stale_token_s = STALE_TOKEN_S if settings.stale_reads else 0.0
        self._requests = TokenBucket(settings.rate_limit, 2 * settings.rate_limit)
        self._valid: OrderedDict[str, tuple[UserId, float]] = OrderedDict()
        self._new, self._known = TokenQueries(self._find_users), TokenQueries(self._find_users)
        self._ended: OrderedDict[str, None] = OrderedDict()

    async def start(self, user_id: UserId, user_agent: str) -> str:
        """Start a session and return its token."""
        token = secrets.token_urlsafe(32)
        user_agent = user_agent[:MAX_USER_AGENT]
        await self._store.add_session(hash_token(token), user_id, self._days, user_agent)
        return token

    # --- checking a token --------------------------------------------------------------------

    async def admit(self, token: str) -> UserId:
        """Authenticate and count one request of this user. Raises Unauthenticated, RateLimited."""
        user_id = await self.authenticate(token)
        self._requests.take(user_id)
        return user_id

    async def authenticate(self, token: str) -> UserId:
        """Return the user of a valid session. Raises Unauthenticated."""
        token_hash = hash_token(token)
        user_id, checked_at = self._valid.get(token_hash, (None, float("-inf")))
        age_s = time.monotonic() - checked_at
        if user_id is not None and age_s < TOKEN_CACHE_S:
            return user_id
        try:
            return await self._ask(token_hash, self._new if user_id is None else self._known)
        except StoreUnavailable:
            is_recent = age_s < self._stale_token_s and token_hash not in self._ended
            if user_id is not None and is_recent:
                return user_id
            raise

    async def _ask(self, token_hash: str, queries: "TokenQueries") -> UserId:
        """Return the user of a session, by a query that other tokens share."""
        started_at = time.monotonic()
        user_id = await queries.find(token_hash)
        # A log-out during the query must not be undone by its result.
        if user_id is None or token_hash in self._ended:
            self._valid.pop(token_hash, None)
            raise Unauthenticated("The token is not, or no longer, valid; log in again.")
        self._valid[token_hash] = (user_id, started_at)
        self._valid.move_to_end(token_hash)
        _drop_oldest(self._valid)
        return user_id

    async def _find_users(self, hashes: list[str]) -> dict[str, UserId]:
        found = await self._store.find_sessions(hashes)
        self._receivers.learn(found.changes)
        return found.users

    async def ended_tokens(self, tokens: set[str]) -> set[str]:
        """Return the tokens whose session has ended. Asks MongoDB, not the cache."""
        hashes = {hash_token(token): token for token in tokens}
        asked, valid = list(hashes), dict[str, UserId]()
        for start in range(0, len(asked), MAX_TOKENS_PER_CHECK):
            valid |= await self._find_users(asked[start : start + MAX_TOKENS_PER_CHECK])
        return {token for token_hash, token in hashes.items() if token_hash not in valid}

    # --- listing and ending ------------------------------------------------------------------

    async def describe(self, user_id: UserId, token: str) -> list[Document]:
        """Return the sessions of a user, the newest first, for the owner of this token."""
        current, lifetime = hash_token(token), timedelta(days=self._days)
        rows = await self._store.list_sessions(user_id)
        return [
            {
                "id": row["_id"],
                # Older versions stored only until when a session is valid.
                "createdAt": rfc3339(row.get("createdAt") or row["expiresAt"] - lifetime),
                "lastUsedAt": rfc3339(row.get("lastUsedAt") or row["expiresAt"] - lifetime),
                "userAgent": row.get("userAgent", ""),
                "current": row["_id"] == current,
            }
            for row in rows
        ]

    async def log_out(self, user_id: UserId, token: str) -> list[str]:
        """End the session of a token, if it has not ended already. Return the hash of the token."""
        token_hash = hash_token(token)
        await self._store.end_session(token_hash, user_id)
        return self._forget([token_hash])

    async def end(self, user_id: UserId, session_id: str) -> list[str]:
        """End one session: here at once, in other processes within TOKEN_CACHE_S seconds.

        Return the hash of its token. Raises NotFound.
        """
        if not await self._store.end_session(session_id, user_id):
            raise NotFound("There is no such session.")
        return self._forget([session_id])

    async def end_all(self, user_id: UserId, but: str = "") -> list[str]:
        """End all sessions of a user, but that of one token. Return the hashes of their tokens."""
        kept = hash_token(but) if but else ""
        return self._forget(await self._store.end_sessions(user_id, kept))

    def _forget(self, hashes: list[str]) -> list[str]:
        for token_hash in hashes:
            self._ended[token_hash] = None
            self._valid.pop(token_hash, None)
        _drop_oldest(self._ended)
        return hashes


class TokenQueries:
    """Queries for the users of tokens. What is asked during one shares the next one.

    Known tokens have queries of their own: a crowd of new ones must not delay the requests of
    clients that are connected already.
    """

    def __init__(self, find: Callable[[list[str]], Awaitable[dict[str, UserId]]]) -> None:
        self._find_users = find
        self._asked: dict[str, Callers[UserId | None]] = {}  # by the hash of a token
        self._batches = Batcher(self._take, self._find)

    def find(self, token_hash: str) -> "asyncio.Future[UserId | None]":
        """Return a future for the user of this token, or for None without a valid session."""
        return self._batches.join(self._asked.setdefault(token_hash, []))

    def _take(self) -> list[Waiting[str, UserId | None]]:
        hashes = list(itertools.islice(self._asked, MAX_TOKENS_PER_QUERY))
        return [(token_hash, self._asked.pop(token_hash)) for token_hash in hashes]

    async def _find(self, batch: list[Waiting[str, UserId | None]]) -> list[UserId | None]:
        hashes = [token_hash for token_hash, _ in batch]
        users = await self._find_users(hashes)
        return [users.get(token_hash) for token_hash in hashes]


def _drop_oldest(cache: OrderedDict[str, Any]) -> None:
    while len(cache) > MAX_CACHED:
        cache.popitem(last=False)


def hash_token(token: str) -> str:
    """Return the hash that is stored instead of the token. It is of no use to log in."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
