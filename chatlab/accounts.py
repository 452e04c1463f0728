"""Accounts: sign-up, log-in, and what users change about themselves.

Passwords are stored as argon2id hashes and never logged.
"""

import asyncio
import secrets
from collections import OrderedDict
from datetime import datetime

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chatlab.connections.mongo import Document
from chatlab.domain.ids import UserId
from chatlab.domain.message import UNKNOWN_TIME, now, rfc3339
from chatlab.domain.passwords import check_password, normalize
from chatlab.domain.requests import ChangePassword, LogIn, SignUp
from chatlab.errors import Conflict, Forbidden, NotFound, Unauthenticated
from chatlab.protect.account_limits import AccountLimits, Client, latest_places
from chatlab.protect.fair_queue import FairQueue
from chatlab.protect.rate_limit import Attempt, Execute, check_all, give_back_all, take_all
from chatlab.receivers import Receivers
from chatlab.sessions import Sessions
from chatlab.settings import Settings
from chatlab.store.users import NAME_IS_TAKEN, UserStore

MAX_CACHED = 100_000  # users in the cache of a process
# Passwords that are hashed at a time: of log-ins and of sign-ups, so that neither wait for the
# other. Each needs 64 MiB and about 50 ms of a core.
LOG_IN_SLOTS, SIGN_UP_SLOTS = 1, 1
RESET_BYTES = 12  # of the random password after a reset
WRONG_LOG_IN = "The name or the password is wrong."
WRONG_PASSWORD = "The current password is wrong."  # noqa: S105 - a message
NO_USER_ANY_MORE = "The user of this session no longer exists."


class Accounts:
    """The users of the service.

    `execute` sends a command to Redis: the limits of log-ins and sign-ups hold across processes.
    """

    def __init__(
        self,
        store: UserStore,
        sessions: Sessions,
        receivers: Receivers,
        settings: Settings,
        execute: Execute,
    ) -> None:
        self._store, self._sessions, self._receivers = store, sessions, receivers
        self._limits = AccountLimits(settings, execute)
        self._log_ins = FairQueue(LOG_IN_SLOTS, settings.hash_queue)
        self._sign_ups = FairQueue(SIGN_UP_SLOTS, settings.hash_queue)
        self._hasher = PasswordHasher()
        self._dummy_hash = ""  # for unknown names, which must take as long as a wrong password
        self._users: OrderedDict[str, None] = OrderedDict()

    # --- sign-up and log-in ------------------------------------------------------------------

    async def sign_up(self, request: SignUp, address: str, user_agent: str = "") -> Document:
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
            password_hash = await self._hash(request.password)
        user = {
            "_id": request.username,
            "displayName": request.displayName or request.username,
            "passwordHash": password_hash,
            "knownFrom": latest_places(request.username, client, []),
            "createdAt": now(),
        }
        await self._store.add(user)
        return await self._start_session(user, user_agent)

    async def log_in(self, request: LogIn, address: str, user_agent: str = "") -> Document:
        """Return the user and a new token. Raises Unauthenticated.

        Raises RateLimited after too many failed attempts.
        """
        name, client = request.username, Client.of(address, request.deviceId)
        user = await self._store.find(name)
        known_from = user.get("knownFrom", []) if user else []
        attempt, turn = self._limits.of_log_in(name, client, known_from)
        password_hash = await self._verify(user, request.password, attempt, turn)
        if not password_hash or user is None:
            raise Unauthenticated(WRONG_LOG_IN)
        places = latest_places(name, client, known_from)
        if places != known_from:
            await self._store.set_known_from(name, places)
        session = await self._start_session(user, user_agent)
        # While the password was verified, it may have been changed, which ends all sessions.
        if not await self._store.has_password(name, password_hash):
            await self._sessions.log_out(UserId(name), session["token"])
            raise Unauthenticated(WRONG_LOG_IN)
        return session

    async def _start_session(self, user: Document, user_agent: str) -> Document:
        token = await self._sessions.start(UserId(user["_id"]), user_agent)
        return {"user": public_profile(user), "token": token}

    # --- passwords ---------------------------------------------------------------------------

    async def _verify(
        self, user: Document | None, password: str, attempt: Attempt, turn: str
    ) -> str | None:
        """Return the hash of the right password, or None. Only failures count as an attempt.

        Raises RateLimited.
        """
        await check_all(attempt)  # what is refused anyway takes no place in the queue
        async with self._log_ins.turn(turn):
            await take_all(attempt)
            password_hash = await self._matching_hash(user or {}, password)
        if password_hash:
            await give_back_all(attempt)
        return password_hash

    async def _matching_hash(self, user: Document, password: str) -> str | None:
        if not self._dummy_hash:
            self._dummy_hash = await self._hash(secrets.token_hex())
        stored = str(user.get("passwordHash", self._dummy_hash))
        normalized = normalize(password)
        if await self._is_hash_of(stored, normalized):
            return stored
        if password == normalized or not await self._is_hash_of(stored, password):
            return None
        # An older version has hashed this password as it was typed.
        renewed = await self._hash(normalized)
        return renewed if await self._store.set_password(user["_id"], stored, renewed) else None

    async def _is_hash_of(self, password_hash: str, password: str) -> bool:
        try:
            return await asyncio.to_thread(self._hasher.verify, password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _hash(self, password: str) -> str:
        return await asyncio.to_thread(self._hasher.hash, normalize(password))

    async def change_password(
        self, user_id: UserId, token: str, request: ChangePassword, address: str
    ) -> list[str]:
        """Change the password and end all sessions but that of the token.

        Return the hashes of the tokens that have ended. Raises Forbidden (the current password is
        wrong), Invalid (the new one is easy to guess), RateLimited.
        """
        user = await self._find(user_id)
        names = [user_id, user["displayName"]]
        await asyncio.to_thread(check_password, request.new, names, "new")
        before = await self._confirm(user, request.current, address)
        async with self._sign_ups.turn(Client.of(address, None).address):
            after = await self._hash(request.new)
        if not await self._store.set_password(user_id, before, after):
            raise Forbidden(WRONG_PASSWORD)  # it has just been changed
        return await self._sessions.end_all(user_id, but=token)

    async def _confirm(self, user: Document, password: str, address: str) -> str:
        """Return the hash of the user's password. Raises Forbidden, RateLimited.

        A token alone must not be enough to guess the password.
        """
        attempt, turn = self._limits.of_confirmation(user["_id"], Client.of(address, None))
        password_hash = await self._verify(user, password, attempt, turn)
        if not password_hash:
            raise Forbidden(WRONG_PASSWORD)
        return password_hash

    async def reset_password(self, name: str) -> str:
        """Give a user a random password, end all sessions, and return the password.

        Raises NotFound, Conflict (the user has changed the password at the same time).
        """
        user = await self._store.find(name)
        if user is None or "passwordHash" not in user:
            raise NotFound("There is no user with this name.")
        password = secrets.token_urlsafe(RESET_BYTES)
        after = await self._hash(password)
        if not await self._store.set_password(name, user["passwordHash"], after):
            raise Conflict("The password has just been changed. Try again.")
        await self._sessions.end_all(UserId(name))
        return password

    # --- profiles ----------------------------------------------------------------------------

    async def profile(self, user_id: UserId) -> Document:
        """Return the public profile of a user. Raises Unauthenticated if the user is gone."""
        return public_profile(await self._find(user_id))

    async def _find(self, user_id: UserId) -> Document:
        user = await self._store.find(user_id)
        if user is None or is_deleted(user):
            raise Unauthenticated(NO_USER_ANY_MORE)
        return user

    async def rename(self, user_id: UserId, display_name: str) -> Document:
        """Change the display name and return the profile."""
        user = await self._store.rename(user_id, display_name)
        if user is None:
            raise Unauthenticated(NO_USER_ANY_MORE)
        return public_profile(user)

    async def delete(self, user_id: UserId, password: str, address: str) -> list[str]:
        """Delete an account and end its sessions. Return the hashes of their tokens.

        The messages stay in their conversations. The id is never given to anybody else, who would
        inherit them. Raises Forbidden (the password is wrong), RateLimited.
        """
        user = await self._store.find(user_id)
        if user and not is_deleted(user):  # otherwise this request is repeated, after an outage
            password_hash = await self._confirm(user, password, address)
            if not await self._store.delete(user_id, password_hash):
                raise Forbidden(WRONG_PASSWORD)  # it has just been changed
        await self._receivers.announce(user_id)
        return await self._sessions.end_all(user_id)

    async def require_user(self, user_id: str) -> None:
        """Raise NotFound if there never was such a user. Ids are never removed, so they are cached.

        `Receivers` knows who receives messages.
        """
        if user_id not in self._users:
            if await self._store.find(user_id) is None:
                raise NotFound("There is no such user.")
            self._users[user_id] = None
            if len(self._users) > MAX_CACHED:
                self._users.popitem(last=False)


def is_deleted(user: Document) -> bool:
    return user.get("deletedAt") is not None


def public_profile(user: Document) -> Document:
    """Return the part of a user that every user may see. Damaged values have defaults."""
    name, created_at = user.get("displayName"), user.get("createdAt")
    return {
        "id": user["_id"],
        "displayName": name if isinstance(name, str) else user["_id"],
        "createdAt": rfc3339(created_at) if isinstance(created_at, datetime) else UNKNOWN_TIME,
    }
