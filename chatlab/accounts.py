"""Accounts: sign-up, log-in and sessions.

Passwords are stored as argon2id hashes, tokens as SHA-256 hashes. Neither is ever logged.

Each process caches valid tokens for TOKEN_CACHE_S seconds, so that most requests need no session
query. A log-out in another process therefore takes effect here within that time.
"""

import asyncio
import hashlib
import itertools
import secrets
import time
from collections import OrderedDict
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chatlab.connections.mongo import Document
from chatlab.domain.ids import UserId
from chatlab.domain.message import now, rfc3339
from chatlab.domain.requests import LogIn, SignUp
from chatlab.errors import NotFound, RateLimited, Unauthenticated
from chatlab.protect.batcher import Batcher, Callers, Waiting
from chatlab.protect.rate_limit import TokenBucket
from chatlab.store.users import UserStore

TOKEN_CACHE_S = 5.0
# When many clients reconnect at the same time. The requests of one query continue together, so it
# must not be too large.
MAX_TOKENS_PER_QUERY = 50
MAX_TOKENS_PER_CHECK = 500  # of open sockets
MAX_CACHED = 100_000  # tokens, and users, in the caches of a process
MAX_CONCURRENT_HASHES = 2  # each needs 64 MiB and about 50 ms of a core
MAX_QUEUED_HASHES = 256


class Accounts:
    """The users and sessions of the service.

    `login_limit` is the number of failed log-ins per minute for one user name from one address.
    `rate_limit` is the number of requests and events per second for one user. 0 means no limit.
    """

    def __init__(
        self,
        store: UserStore,
        *,
        login_limit: int,
        session_days: float,
        rate_limit: float,
    ) -> None:
        self._store, self._session_days = store, session_days
        self._requests = TokenBucket(rate_limit, 2 * rate_limit)
        self._attempts = TokenBucket(login_limit / 60, max(login_limit, 1))
        self._hasher = PasswordHasher()
        self._hash_slots, self._queued_hashes = asyncio.Semaphore(MAX_CONCURRENT_HASHES), 0
        self._dummy_hash = ""  # for unknown names, which must take as long as a wrong password
        self._sessions: OrderedDict[str, tuple[UserId, float]] = OrderedDict()
        self._asked: dict[
            str, Callers[UserId | None]
        ] = {}  # hashes of tokens that wait for a query
        self._queries = Batcher(self._take_asked, self._find_sessions)
        self._logged_out: OrderedDict[str, None] = OrderedDict()
        self._users: OrderedDict[str, None] = OrderedDict()

    async def sign_up(self, request: SignUp) -> Document:
        """Create a user and return it with a token. Raises Conflict if the name is taken."""
        user = {
            "_id": request.username,
            "displayName": request.displayName or request.username,
            "passwordHash": await self._hash(self._hasher.hash, request.password),
            "createdAt": now(),
        }
        await self._store.add(user)
        return await self._start_session(user)

    async def log_in(self, request: LogIn, address: str) -> Document:
        """Return the user and a new token. Raises Unauthenticated.

        Raises RateLimited after too many failed attempts from this address.
        """
        attempt = f"{address} {request.username}"
        self._attempts.take(attempt)
        user = await self._store.find(request.username)
        if not await self._verify(user, request.password) or user is None:
            raise Unauthenticated("The name or the password is wrong.")
        self._attempts.reset(attempt)
        return await self._start_session(user)

    async def log_out(self, token: str) -> None:
        """End a session: here at once, in other processes within TOKEN_CACHE_S seconds."""
        token_hash = hash_token(token)
        await self._store.end_session(token_hash)
        _remember(self._logged_out, token_hash, None)
        self._sessions.pop(token_hash, None)

    async def admit(self, token: str) -> UserId:
        """Authenticate and count one request of this user. Raises Unauthenticated, RateLimited."""
        user_id = await self.authenticate(token)
        self._requests.take(user_id)
        return user_id

    async def authenticate(self, token: str) -> UserId:
        """Return the user of a valid session. Raises Unauthenticated."""
        token_hash = hash_token(token)
        user_id, checked_at = self._sessions.get(token_hash, (None, 0.0))
        if user_id is not None and time.monotonic() - checked_at < TOKEN_CACHE_S:
            return user_id
        return await self._find_session(token_hash)

    async def _find_session(self, token_hash: str) -> UserId:
        """Return the user of a session, by a query that other tokens share."""
        started_at = time.monotonic()
        user_id = await self._queries.join(self._asked.setdefault(token_hash, []))
        # A log-out during the query must not be undone by its result.
        if user_id is None or token_hash in self._logged_out:
            self._sessions.pop(token_hash, None)
            raise Unauthenticated("The token is not, or no longer, valid; log in again.")
        _remember(self._sessions, token_hash, (user_id, started_at))
        _remember(self._users, user_id, None)
        return user_id

    def _take_asked(self) -> list[Waiting[str, UserId | None]]:
        hashes = list(itertools.islice(self._asked, MAX_TOKENS_PER_QUERY))
        return [(token_hash, self._asked.pop(token_hash)) for token_hash in hashes]

    async def _find_sessions(self, batch: list[Waiting[str, UserId | None]]) -> list[UserId | None]:
        found = await self._store.find_sessions([token_hash for token_hash, _ in batch])
        return [found.get(token_hash) for token_hash, _ in batch]

    async def ended_tokens(self, tokens: set[str]) -> set[str]:
        """Return the tokens whose session has ended. Asks MongoDB, not the cache."""
        hashes = {hash_token(token): token for token in tokens}
        asked, valid = list(hashes), dict[str, UserId]()
        for start in range(0, len(asked), MAX_TOKENS_PER_CHECK):
            valid |= await self._store.find_sessions(asked[start : start + MAX_TOKENS_PER_CHECK])
        return {token for token_hash, token in hashes.items() if token_hash not in valid}

    async def profile(self, user_id: UserId) -> Document:
        """Return the public profile of a user. Raises Unauthenticated if the user is gone."""
        user = await self._store.find(user_id)
        if user is None:
            raise Unauthenticated("The user of this session no longer exists.")
        return public_profile(user)

    async def other_users(self, user_id: UserId) -> list[Document]:
        """Return the public profiles of all users but this one."""
        users = await self._store.find_all()
        return [public_profile(user) for user in users if user["_id"] != user_id]

    async def require_user(self, user_id: str) -> None:
        """Raise NotFound if there is no such user. Users are never deleted, so they are cached."""
        if user_id not in self._users:
            if await self._store.find(user_id) is None:
                raise NotFound("There is no such user.")
            _remember(self._users, user_id, None)

    async def _start_session(self, user: Document) -> Document:
        token = secrets.token_urlsafe(32)
        user_id = UserId(user["_id"])
        await self._store.add_session(hash_token(token), user_id, self._session_days)
        return {"user": public_profile(user), "token": token}

    async def _verify(self, user: Document | None, password: str) -> bool:
        if not self._dummy_hash:
            self._dummy_hash = await self._hash(self._hasher.hash, secrets.token_hex())
        password_hash = user["passwordHash"] if user else self._dummy_hash
        try:
            return bool(await self._hash(self._hasher.verify, password_hash, password))
        except (VerificationError, InvalidHashError):
            return False

    async def _hash(self, function: Any, *arguments: str) -> Any:
        """Call an argon2 function in a thread. Raises RateLimited if the queue is full."""
        if self._queued_hashes >= MAX_QUEUED_HASHES:
            raise RateLimited("Too many people are signing up or logging in right now.", 2)
        self._queued_hashes += 1
        try:
            async with self._hash_slots:
                return await asyncio.to_thread(function, *arguments)
        finally:
            self._queued_hashes -= 1


def _remember(cache: OrderedDict[str, Any], key: str, value: object) -> None:
    """Put a value into a cache, and drop the oldest one if the cache is full."""
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > MAX_CACHED:
        cache.popitem(last=False)


def hash_token(token: str) -> str:
    """Return the hash that is stored instead of the token. It is of no use to log in."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def public_profile(user: Document) -> Document:
    """Return the part of a user that every user may see."""
    return {
        "id": user["_id"],
        "displayName": user["displayName"],
        "createdAt": rfc3339(user["createdAt"]),
    }
