"""The composition root: one lifespan creates, opens and closes every part of the service.

Importing this module creates nothing. The parts are closed in reverse order.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any

import socketio
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chatlab import __version__, metrics
from chatlab.accounts import Accounts
from chatlab.cache.cache import Cache
from chatlab.cache.cluster_sweeper import ClusterSweeper, create_sweeper
from chatlab.cache.sweeper import Sweeper
from chatlab.connections.cluster import connect_servers
from chatlab.connections.redis_limits import RedisLimits
from chatlab.contacts import Contacts
from chatlab.domain.ids import UserId
from chatlab.domain.trace import EventBus, StageEvent
from chatlab.local.engines import open_engines
from chatlab.protect.loop_lag import LoopLag
from chatlab.protect.read_limits import ReadLimits
from chatlab.realtime.broadcast import SUBSCRIBE_TIMEOUT_S
from chatlab.realtime.cluster_broadcast import create_broadcast
from chatlab.realtime.peer_settings import PeerSettings
from chatlab.realtime.presence import Presence
from chatlab.receivers import Receivers
from chatlab.service import Service, finish_write
from chatlab.sessions import Sessions
from chatlab.settings import Settings, load_settings
from chatlab.stage_users import StageUsers
from chatlab.store.store import Store
from chatlab.web import account_routes, api_description, health, http, projector_api
from chatlab.web.connection_limits import LIMITS_KEY, ConnectionLimits
from chatlab.web.dependencies import HEADERS
from chatlab.web.descriptors import limit_connections
from chatlab.web.exit_deadline import ExitDeadline, stop_at_hang_up
from chatlab.web.fast_path import READ_ROUTE, SEND_ROUTE, FastPath, serve_directly
from chatlab.web.flow_namespace import FlowNamespace
from chatlab.web.lab_access import LabAccess
from chatlab.web.origin_check import OriginCheck
from chatlab.web.pages import add_pages
from chatlab.web.problems import add_error_handlers
from chatlab.web.request_log import CLOSED_BY_CLIENT, UNMATCHED, RequestLog, route_of
from chatlab.web.socket_guard import SocketGuard
from chatlab.web.socket_server import create_socket_server
from chatlab.web.socket_sessions import SocketSessions
from chatlab.web.sockets import SocketApi
from chatlab.web.stopping import Drain, close_within, stop_with_parent, unfinished_work
from chatlab.web.watchdog import Watchdog

SOCKET_PATH = "/socket.io/"
CLOSE_LIMIT_S = 0.4  # time for a part to close when the service stops
GOODBYE_LIMIT_S = 0.2  # shorter: without a goodbye, the other processes only do more than they need
STORE_CLOSE_LIMIT_S = 2.0  # longer, because the store saves the messages that wait

flow_log = logging.getLogger("chatlab.flow")


class Chatlab(FastAPI):
    """The application. It serves two kinds of traffic without the layers of FastAPI.

    These are the routes of the fast path, to save time, and websockets, to save memory: each open
    websocket would keep the stack frames of the layers, about 10 KB.
    """

    _fast_path: FastPath | None = None
    _websockets: SocketGuard | None = None

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self.state.settings, self.state.requests = settings, RequestLog(settings)
        self._origin_check, self._requests = OriginCheck(settings), self.state.requests

    def add_shortcuts(self, fast_path: FastPath, websockets: SocketGuard) -> None:
        """Serve these without the layers from now on."""
        self._fast_path, self._websockets = fast_path, websockets

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document. It is made for the first request."""
        if not self.openapi_schema:
            api_description.describe(super().openapi())
        return super().openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        scope[HEADERS] = dict(scope["headers"])
        refusal = self._origin_check.refuse(scope)
        if scope["type"] == "http":
            await self._serve_http(refusal, scope, receive, send)
        elif refusal:
            await refusal(scope, receive, send)
        elif self._websockets and scope["path"].startswith(SOCKET_PATH):
            await self._websockets(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _serve_http(
        self, refusal: Response | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request by the shortest way, and note what it was and how long it took."""
        began_s = self._requests.begin(scope[HEADERS])
        if refusal:
            await refusal(scope, receive, send)
            self._requests.end_request(scope, UNMATCHED, refusal.status_code, began_s)
        elif self._fast_path and (endpoint := self._fast_path.endpoint_of(scope)):
            route = READ_ROUTE if scope["method"] == "GET" else SEND_ROUTE
            status = await serve_directly(endpoint, scope, receive, send)
            self._requests.end_request(scope, route, status, began_s)
        else:
            await self._serve_routed(began_s, scope, receive, send)

    async def _serve_routed(
        self, began_s: float, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let FastAPI find the route and serve the request. It raises unexpected errors again."""
        status = CLOSED_BY_CLIENT

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await super().__call__(scope, receive, note_status)
        finally:
            self._requests.end_request(scope, route_of(scope), status, began_s)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the service as an ASGI application.

    Where the settings have no URLs, it starts private servers.
    """
    settings = settings or load_settings()
    app = Chatlab(
        settings,
        title="chatlab",
        description=api_description.DESCRIPTION,
        version=__version__,
        lifespan=functools.partial(_lifespan, settings=settings),
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    add_error_handlers(app)
    app.include_router(health.routes)
    if settings.metrics:
        app.include_router(health.metrics_routes)
    app.include_router(account_routes.routes)
    app.include_router(http.routes)
    if settings.flow:
        app.include_router(projector_api.routes)
    add_pages(app, docs=settings.docs, lab=settings.flow)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Chatlab, settings: Settings) -> AsyncIterator[dict[str, Any]]:  # noqa: PLR0915 - one list of all parts
    """Create and open every part, serve, and close the parts in reverse order."""
    async with contextlib.AsyncExitStack() as stack:
        _watch_signals(app, settings)
        metrics.remove_dead_processes()
        mongo_url, redis_url = await _server_urls(settings, stack)

        events, lag = _event_bus(settings), LoopLag()
        stack.callback(asyncio.create_task(lag.run()).cancel)
        connect_s, peers = RedisLimits(settings.redis_timeout).connect_s, PeerSettings(settings)
        sweeper = None
        if settings.sweeper:
            sweeper = create_sweeper(
                redis_url,
                settings,
                events,
                owns_keys=lambda: cache.owns_keys,  # `cache` is created below
            )
        cache = Cache(
            connect_servers(redis_url, connect_s),
            settings,
            events,
            peer_timeout_s=peers.shortest_timeout_s,
            lag=lag,
            on_cached=sweeper.expect if sweeper else None,
        )
        sockets = create_socket_server(settings.max_body)

        async def find_partners(user: UserId, limit: int) -> list[UserId]:
            return await store.conversations.find_partners(user, limit)  # it is created below

        presence = Presence(sockets, cache.pipe, settings.key_prefix, peers, find_partners)
        subscriber = connect_servers(redis_url, SUBSCRIBE_TIMEOUT_S)
        broadcast = create_broadcast(
            sockets,
            cache.pipe,
            subscriber,
            presence,
            settings.key_prefix,
            cache.distrust_windows,
        )
        on_found = functools.partial(finish_write, cache, broadcast)

        async def join(installation: str) -> None:
            broadcast.join(installation)
            await cache.claim(installation)

        store = Store(
            mongo_url,
            settings.database,
            cache.now_us,
            on_found,
            lag,
            join,
            stale_reads=settings.stale_reads,
        )

        async def say_goodbye() -> None:
            await broadcast.say_goodbye(
                lambda: not (store.messages.has_uncertain_writes or cache.has_missed_windows)
            )

        receivers = Receivers(store.users)
        sessions = Sessions(store.users, receivers, settings)
        accounts = Accounts(store.users, sessions, receivers, settings, cache.pipe.execute)
        read_limits = ReadLimits(settings.rate_limit)
        service = Service(store, cache, broadcast, accounts, receivers, read_limits)
        app.state.contacts = Contacts(store, presence.is_online)
        app.state.store, app.state.cache, app.state.events = store, cache, events
        app.state.accounts, app.state.sessions, app.state.service = accounts, sessions, service
        app.state.stage_users = StageUsers(store.users, sessions)
        app.state.lab_access, app.state.sweeper = LabAccess(settings), sweeper

        stack.callback(metrics.remove_this_process)
        stack.push_async_callback(close_within, CLOSE_LIMIT_S, cache.close)
        stack.push_async_callback(close_within, GOODBYE_LIMIT_S, say_goodbye)
        stack.push_async_callback(close_within, STORE_CLOSE_LIMIT_S, store.close)
        stack.push_async_callback(close_within, CLOSE_LIMIT_S, broadcast.close)
        await asyncio.gather(cache.open(), store.open())
        watching = asyncio.create_task(Watchdog(store.mongo.calls, store.mongo.pool, lag).run())
        stack.callback(watching.cancel)
        await broadcast.open()

        socket_sessions = SocketSessions(sockets, sessions, settings.user_sockets)
        app.state.socket_sessions = socket_sessions
        requests = app.state.requests
        socket_api = SocketApi(sockets, socket_sessions, service, broadcast, events, requests)
        socket_api.open()
        stack.push_async_callback(close_within, CLOSE_LIMIT_S, socket_api.close)

        if settings.flow:
            watchers = FlowNamespace(events, socket_sessions, app.state.lab_access)
            sockets.register_namespace(watchers)
        websockets = _guarded(sockets, settings)
        app.mount(SOCKET_PATH.rstrip("/"), websockets)
        fast_path = FastPath(service, sessions, events, max_body_bytes=settings.max_body)
        app.add_shortcuts(fast_path, websockets)

        if sweeper:
            _start_sweeper(sweeper, stack)
        connections = ConnectionLimits(
            settings, limit_connections(settings.max_connections), app.state.drain
        )
        checking = asyncio.create_task(connections.run())
        stack.callback(checking.cancel)
        yield {LIMITS_KEY: connections}  # the state that uvicorn gives to each connection


def _watch_signals(app: FastAPI, settings: Settings) -> None:
    """Drain after a signal to stop, and end this process in time, even if a part does not stop."""
    loop = asyncio.get_running_loop()
    app.state.drain = drain = Drain(settings.drain_seconds)
    stop_with_parent(drain)
    stop_at_hang_up()
    drain.watch_signals()

    def describe() -> str:
        return unfinished_work(loop, getattr(app.state, "store", None))  # none during start-up

    ExitDeadline(settings.exit_limit_s, describe).watch_signals()


async def _server_urls(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[str, str]:
    """Return the URLs of MongoDB and Redis; start private servers, or join them, without URLs."""
    if settings.mongo_url and settings.redis_url:
        return settings.mongo_url, settings.redis_url
    engines = await asyncio.to_thread(open_engines, settings)
    stack.push_async_callback(asyncio.to_thread, engines.close)
    return engines.mongo.url, engines.redis.url


def _event_bus(settings: Settings) -> EventBus:
    """Return the event bus. With `CHATLAB_FLOW` the log and the metrics subscribe to it."""
    events = EventBus()
    if settings.flow:
        events.subscribe(_log_event)
        events.subscribe(metrics.count_stage)
    return events


def _log_event(event: StageEvent) -> None:
    fields = {
        name: value for name, value in event.items() if name not in ("at", "stage", "trace", "door")
    }
    details = " ".join(f"{name}={value}" for name, value in fields.items())
    flow_log.info("%s %s %s %s", event["trace"], event["door"], event["stage"], details)


def _guarded(sockets: socketio.AsyncServer, settings: Settings) -> SocketGuard:
    return SocketGuard(
        socketio.ASGIApp(sockets, socketio_path="socket.io"),
        connect_timeout=settings.connect_timeout,
        stalled_timeout=settings.stalled_timeout,
    )


def _start_sweeper(sweeper: Sweeper | ClusterSweeper, stack: contextlib.AsyncExitStack) -> None:
    sweeping = asyncio.create_task(sweeper.run())

    async def stop() -> None:
        sweeping.cancel()
        await asyncio.wait([sweeping])

    stack.push_async_callback(close_within, CLOSE_LIMIT_S, stop)
