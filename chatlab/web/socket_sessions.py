"""The sessions of open sockets: authenticate them, end them after a log-out, drop slow readers."""

import asyncio
import sys
from typing import Any, NamedTuple

import socketio
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from chatlab import metrics
from chatlab.domain.ids import UserId
from chatlab.errors import ChatlabError, RateLimited, StoreUnavailable, Unauthenticated
from chatlab.realtime.task_set import TaskSet
from chatlab.sessions import TOKEN_CACHE_S, Sessions, hash_token
from chatlab.web.connection_limits import note_authenticated
from chatlab.web.socket_guard import SCOPE_KEY, WatchedSocket

MAIN_NAMESPACE = "/"
# A log-out in another process must end the sockets here within TOKEN_CACHE_S seconds.
SESSION_CHECK_INTERVAL_S = TOKEN_CACHE_S / 2
QUEUE_CHECK_INTERVAL_S = 1.0
UNCHECKED_PACKETS = 100  # the bytes of a queue are counted only if it has more packets
MAX_QUEUED_BYTES = 4 << 20  # of events that wait for one socket


SocketKey = tuple[str, str]  # namespace, socket id


class SocketSession(NamedTuple):
    """`user` and `token` are empty for a guest."""

    user: UserId
    token: str
    websocket: WatchedSocket


class SocketSessions:
    """The sessions of all open sockets of this process.

    A websocket may have a socket in each namespace. One user may have `max_per_user` sockets.
    """

    def __init__(
        self, sockets: socketio.AsyncServer, sessions: Sessions, max_per_user: int
    ) -> None:
        self._sockets, self._logged_in = sockets, sessions
        self._max_per_user = max_per_user
        self._sessions: dict[SocketKey, SocketSession] = {}
        self._of_user: dict[UserId, set[SocketKey]] = {}
        self._tasks = TaskSet()

    def open(self) -> None:
        """Start to check the sessions and the queues of open sockets."""
        self._tasks.start(self._end_logged_out())
        self._tasks.start(self._drop_slow_readers())

    async def close(self) -> None:
        await self._tasks.cancel()

    async def connect(
        self, namespace: str, sid: str, environ: dict[str, Any], auth: object
    ) -> UserId:
        """Store the session of `auth: {token}` and return its user.

        Raises ConnectionRefused if the token is not valid or the user has too many sockets.
        """
        token = auth.get("token") if isinstance(auth, dict) else None
        try:
            if not isinstance(token, str):
                raise Unauthenticated("Connect with auth: {token}; log in to get a token.")
            user = await self._logged_in.admit(token)
            self._require_room(user)
        except ChatlabError as error:
            metrics.count_error("socket", error.code)
            metrics.SOCKETS_REFUSED.labels(error.code).inc()
            problem = {"code": error.code, "detail": error.detail}
            raise ConnectionRefused(error.code, problem) from None
        self._add(namespace, sid, SocketSession(user, token, _accept(environ)))
        return user

    def accept_guest(self, namespace: str, sid: str, environ: dict[str, Any]) -> None:
        """Store that the caller has admitted this socket, which belongs to no user."""
        self._add(namespace, sid, SocketSession(UserId(""), "", _accept(environ)))

    def _add(self, namespace: str, sid: str, session: SocketSession) -> None:
        self._sessions[namespace, sid] = session
        self._of_user.setdefault(session.user, set()).add((namespace, sid))

    def _require_room(self, user: UserId) -> None:
        if len(self._of_user.get(user, ())) >= self._max_per_user:
            raise RateLimited(
                f"You have {self._max_per_user} open connections. Close one, such as another tab."
            )

    def disconnect(self, namespace: str, sid: str) -> UserId | None:
        """Remove the session of this socket and return its user."""
        session = self._sessions.pop((namespace, sid), None)
        if session is None:
            return None
        sockets = self._of_user[session.user]
        sockets.discard((namespace, sid))
        if not sockets:
            del self._of_user[session.user]
        return session.user

    async def authenticate(self, sid: str) -> UserId:
        """Return the user of a socket of the main namespace, for one event.

        Raises Unauthenticated once the session has ended, and RateLimited if the user sends too
        many events.
        """
        session = self._sessions.get((MAIN_NAMESPACE, sid))
        if session is None:
            raise Unauthenticated("This socket has no session.")
        try:
            return await self._logged_in.admit(session.token)
        except Unauthenticated:
            self._tasks.start(self._end(session.user, {session.token}))
            raise

    async def end_hashes(self, user: UserId, hashes: list[str]) -> None:
        """Disconnect every socket of these tokens of a user, given by their hashes."""
        tokens = {self._sessions[key].token for key in self._of_user.get(user, ())}
        await self._end(user, {token for token in tokens if hash_token(token) in hashes})

    async def _end(self, user: UserId, tokens: set[str]) -> None:
        """Disconnect every socket of these tokens of a user."""
        for namespace, sid in list(self._of_user.get(user, ())):
            session = self._sessions.get((namespace, sid))
            if session and session.token in tokens:
                connection = self._sockets.manager.eio_sid_from_sid(sid, namespace)
                await self._sockets.disconnect(sid, namespace)
                # Not awaited: the client may not read.
                self._tasks.start(self._close(connection, session.websocket))

    async def _close(self, connection: str, websocket: WatchedSocket) -> None:
        await self._sockets.eio.disconnect(connection)  # asks the client to leave
        await websocket.close("the session has ended")

    async def _end_logged_out(self) -> None:
        """End the sockets of sessions that have ended in another process."""
        while True:
            await asyncio.sleep(SESSION_CHECK_INTERVAL_S)
            try:
                users = {session.token: session.user for session in self._sessions.values()}
                for token in await self._logged_in.ended_tokens(users.keys() - {""}):
                    await self._end(users[token], {token})
            except StoreUnavailable:
                continue  # while MongoDB is down, sockets stay connected

    async def _drop_slow_readers(self) -> None:
        """Disconnect clients that read too slowly.

        Their events would fill the memory; they catch up by seq.
        """
        while True:
            await asyncio.sleep(QUEUE_CHECK_INTERVAL_S)
            for (namespace, sid), session in list(self._sessions.items()):
                if self._queued_bytes(sid, namespace) > MAX_QUEUED_BYTES:
                    session.websocket.abort("the client reads too slowly")

    def _queued_bytes(self, sid: str, namespace: str) -> int:
        """Return the size of the events that wait for this socket, or 0 if there are only a few.

        `asyncio.Queue` has no public way to look at its items without taking them. Counting them in
        a subclass would cost time for every event, and needs private methods as well.
        test_a_client_that_reads_too_slowly_is_dropped fails if `_queue` changes.
        """
        connection = self._sockets.eio.sockets.get(
            self._sockets.manager.eio_sid_from_sid(sid, namespace)
        )
        if connection is None or connection.queue.qsize() <= UNCHECKED_PACKETS:
            return 0
        packets = connection.queue._queue  # noqa: SLF001 - see above
        return sum(sys.getsizeof(packet.data) for packet in packets if packet)


def _accept(environ: dict[str, Any]) -> WatchedSocket:
    scope = environ["asgi.scope"]
    websocket: WatchedSocket = scope[SCOPE_KEY]
    websocket.accept_token()
    note_authenticated(scope)
    # The library keeps 2.5 KB for the request body, which a websocket does not have, and the state
    # of the request, which nothing else needs.
    environ.pop("wsgi.input", None)
    scope.pop("state", None)
    return websocket
