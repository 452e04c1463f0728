"""Who is asking: sign-up, log-in, sessions. Passwords are kept as argon2id, tokens as SHA-256; neither is ever logged.

A token is known to this process for at most TOKEN_CACHE_S seconds without asking MongoDB, so a log-out elsewhere is felt here within that time.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chatlab.domain.ids import UserId
from chatlab.domain.message import now, rfc3339
from chatlab.domain.requests import LogIn, SignUp
from chatlab.errors import NotFound, RateLimited, Unauthenticated
from chatlab.protect.rate_limit import TokenBucket
from chatlab.store.store import Document, Store

TOKEN_CACHE_S = 5.0  # seconds
REMEMBERED = 100_000  # tokens, and users, that a process remembers
HASHES_AT_ONCE = 2  # each takes 64 MiB and about 50 ms of a core
HASHES_WAITING = 256


class Accounts:
    """`login_limit`: tries a minute for one name from one address that may fail. `rate_limit`: uses a second of one user. 0 is no limit."""

    def __init__(self, store: Store, *, login_limit: int, session_days: float, rate_limit: float) -> None:
        self._store, self._session_days = store, session_days
        self._uses = TokenBucket(rate_limit, 2 * rate_limit)
        self._attempts = TokenBucket(login_limit / 60, max(login_limit, 1))
        self._hasher = PasswordHasher()
        self._hashing, self._in_line = asyncio.Semaphore(HASHES_AT_ONCE), 0
        self._nobody = ""  # a hash that no password has: an unknown name takes as long as a wrong password
        self._known: OrderedDict[str, tuple[UserId, float]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()  # log-outs here: a look-up under way must not bring them back
        self._users: OrderedDict[str, None] = OrderedDict()

    async def sign_up(self, asked: SignUp) -> Document:
        """The new user and a token. Raises Conflict when the name is taken."""
        user = {
            "_id": asked.username,
            "displayName": asked.displayName or asked.username,
            "passwordHash": await self._hashed(self._hasher.hash, asked.password),
            "createdAt": now(),
        }
        await self._store.add_user(user)
        return {"user": public(user), "token": await self._open_session(UserId(asked.username))}

    async def log_in(self, asked: LogIn, address: str) -> Document:
        """The user and a new token. Raises Unauthenticated, or RateLimited after too many failures."""
        attempt = f"{address} {asked.username}"
        self._attempts.take(attempt)
        user = await self._store.user(asked.username)
        if not await self._matches(user, asked.password) or user is None:
            raise Unauthenticated("The name or the password is wrong.")
        self._attempts.reset(attempt)
        return {"user": public(user), "token": await self._open_session(UserId(user["_id"]))}

    async def log_out(self, token: str) -> None:
        """End this session: here at once, elsewhere within TOKEN_CACHE_S seconds."""
        token_hash = hash_token(token)
        await self._store.end_session(token_hash)
        _remember(self._ended, token_hash, None)
        self._known.pop(token_hash, None)

    async def admit(self, token: str) -> UserId:
        """The user of a living session, for one more use. Raises Unauthenticated, RateLimited."""
        user_id = await self.authenticate(token)
        self._uses.take(user_id)
        return user_id

    async def authenticate(self, token: str) -> UserId:
        """The user of a living session. Raises Unauthenticated."""
        token_hash = hash_token(token)
        user_id, known_at = self._known.get(token_hash, (None, 0.0))
        if user_id is not None and time.monotonic() - known_at < TOKEN_CACHE_S:
            return user_id
        return await self._ask(token_hash)

    async def _ask(self, token_hash: str) -> UserId:
        asked_at = time.monotonic()
        user_id = (await self._store.sessions([token_hash])).get(token_hash)
        if user_id is None or token_hash in self._ended:
            self._known.pop(token_hash, None)
            raise Unauthenticated("The token is not, or no longer, valid; log in again.")
        _remember(self._known, token_hash, (user_id, asked_at))
        _remember(self._users, user_id, None)
        return user_id

    async def ended_tokens(self, tokens: set[str]) -> set[str]:
        """Those of these tokens whose session has ended, asked of MongoDB."""
        hashes = {hash_token(token): token for token in tokens}
        living = await self._store.sessions(list(hashes)) if hashes else {}
        return {token for token_hash, token in hashes.items() if token_hash not in living}

    async def profile(self, user_id: UserId) -> Document:
        user = await self._store.user(user_id)
        if user is None:
            raise Unauthenticated("The user of this session is gone.")
        return public(user)

    async def other_users(self, user_id: UserId) -> list[Document]:
        return [public(user) for user in await self._store.users() if user["_id"] != user_id]

    async def require_user(self, user_id: str) -> None:
        """Raises NotFound. Users never go away, so one that was seen is not asked for again."""
        if user_id not in self._users:
            if await self._store.user(user_id) is None:
                raise NotFound("There is no such user.")
            _remember(self._users, user_id, None)

    async def _open_session(self, user_id: UserId) -> str:
        token = secrets.token_urlsafe(32)
        await self._store.add_session(hash_token(token), user_id, self._session_days)
        return token

    async def _matches(self, user: Document | None, password: str) -> bool:
        if not self._nobody:
            self._nobody = await self._hashed(self._hasher.hash, secrets.token_hex())
        try:
            return bool(await self._hashed(self._hasher.verify, user["passwordHash"] if user else self._nobody, password))
        except (VerificationError, InvalidHashError):
            return False

    async def _hashed(self, work: Any, *words: str) -> Any:
        """Hash in a thread, few at once: argon2id is made to be slow and large."""
        if self._in_line >= HASHES_WAITING:
            raise RateLimited("Too many people sign up or log in right now.", 2)
        self._in_line += 1
        try:
            async with self._hashing:
                return await asyncio.to_thread(work, *words)
        finally:
            self._in_line -= 1


def _remember(known: OrderedDict[str, Any], key: str, value: object) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def hash_token(token: str) -> str:
    """What is stored of a token: it opens nothing."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def public(user: Document) -> Document:
    """What everybody may see of a user."""
    return {"id": user["_id"], "displayName": user["displayName"], "createdAt": rfc3339(user["createdAt"])}
