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
from chatlab.domain.passwords import check_password
from chatlab.domain.requests import LogIn, SignUp
from chatlab.errors import Conflict, NotFound, StoreUnavailable, Unauthenticated
from chatlab.protect.account_limits import AccountLimits, Client, latest_places
from chatlab.protect.batcher import Batcher, Callers, Waiting
from chatlab.protect.fair_queue import FairQueue
from chatlab.protect.rate_limit import (
    Execute,
    TokenBucket,
    check_all,
    give_back_all,
    take_all,
)
from chatlab.settings import Settings
from chatlab.store.users import NAME_IS_TAKEN, UserStore

TOKEN_CACHE_S = 5.0
# With stale reads, a token that was valid so recently is accepted while MongoDB has no primary.
STALE_TOKEN_S = 60.0
# When many clients reconnect at the same time. The requests of one query continue together, so it
# must not be too large.
MAX_TOKENS_PER_QUERY = 50
MAX_TOKENS_PER_CHECK = 500  # of open sockets
MAX_CACHED = 100_000  # tokens, and users, in the caches of a process
# Passwords that are hashed at a time: of log-ins and of sign-ups, so that neither wait for the
# other. Each needs 64 MiB and about 50 ms of a core.
LOG_IN_SLOTS, SIGN_UP_SLOTS = 1, 1


class Accounts:
    """The users and sessions of the service.

    `execute` sends a command to Redis: the limits of log-ins and sign-ups hold across processes.
    """

    def __init__(self, store: UserStore, settings: Settings, execute: Execute) -> None:
        self._store, self._session_days = store, settings.session_days
        self._stale_token_s = STALE_TOKEN_S if settings.stale_reads else 0.0
        self._requests = TokenBucket(settings.rate_limit, 2 * settings.rate_limit)
        self._limits = AccountLimits(settings, execute)
        self._log_ins = FairQueue(LOG_IN_SLOTS, settings.hash_queue)
        self._sign_ups = FairQueue(SIGN_UP_SLOTS, settings.hash_queue)
        self._hasher = PasswordHasher()
        self._dummy_hash = ""  # for unknown names, which must take as long as a wrong password
        self._sessions: OrderedDict[str, tuple[UserId, float]] = OrderedDict()
        self._asked: dict[str, Callers[UserId | None]] = {}  # by the hash of a token
        self._queries = Batcher(self._take_asked, self._find_sessions)
        self._logged_out: OrderedDict[str, None] = OrderedDict()
        self._users: OrderedDict[str, None] = OrderedDict()

    async def sign_up(self, request: SignUp, address: str) -> Document:
        """Create a user and return it with a token.

        Raises Invalid (the password is easy to guess), Conflict (the name is taken), RateLimited.
        """
        names = [request.username, request.displayName]
        await asyncio.to_thread(check_password, request.password, names)
        if await self._store.find(request.username):
            raise Conflict(NAME_IS_TAKEN)
        client = Client.of(address, request.deviceId)
        await self._limits.sign_ups.take(client.address)
        async with self._sign_ups.turn(client.address):
            password_hash = await asyncio.to_thread(self._hasher.hash, request.password)
        user = {
            "_id": request.username,
            "displayName": request.displayName or request.username,
            "passwordHash": password_hash,
            "knownFrom": latest_places(request.username, client, []),
            "createdAt": now(),
        }
        await self._store.add(user)
        return await self._start_session(user)

    async def log_in(self, request: LogIn, address: str) -> Document:
        """Return the user and a new token. Raises Unauthenticated.

        Raises RateLimited after too many failed attempts.
        """
        name, client = request.username, Client.of(address, request.deviceId)
        user = await self._store.find(name)
        known_from = user.get("knownFrom", []) if user else []
        attempt, turn = self._limits.of_log_in(name, client, known_from)
        await check_all(attempt)  # what is refused anyway takes no place in the queue
        async with self._log_ins.turn(turn):
            await take_all(attempt)
            is_right = await self._verify(user, request.password)
        if not is_right or user is None:
            raise Unauthenticated("The name or the password is wrong.")
        await give_back_all(attempt)
        places = latest_places(name, client, known_from)
        if places != known_from:
            await self._store.set_known_from(name, places)
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
        user_id, checked_at = self._sessions.get(token_hash, (None, float("-inf")))
        age_s = time.monotonic() - checked_at
        if user_id is not None and age_s < TOKEN_CACHE_S:
            return user_id
        try:
            return await self._find_session(token_hash)
        except StoreUnavailable:
            is_recent = age_s < self._stale_token_s and token_hash not in self._logged_out
            if user_id is not None and is_recent:
                return user_id
            raise

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
            self._dummy_hash = await asyncio.to_thread(self._hasher.hash, secrets.token_hex())
        password_hash = user["passwordHash"] if user else self._dummy_hash
        try:
            return await asyncio.to_thread(self._hasher.verify, password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


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
