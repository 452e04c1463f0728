"""The composition root: everything is made, opened and closed in one lifespan, in reverse order; nothing at import."""

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import socketio
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from chatlab import __version__, metrics
from chatlab.accounts import Accounts
from chatlab.cache.cache import CALL_LIMIT_S, Cache
from chatlab.cache.sweeper import Sweeper
from chatlab.connections.pipeline import connect
from chatlab.domain.trace import EventBus, StageEvent
from chatlab.errors import StoreUnavailable
from chatlab.local.engines import open_engines
from chatlab.realtime.hub import SUBSCRIBED_WITHIN, Hub
from chatlab.service import Service
from chatlab.settings import Settings, load_settings
from chatlab.store.store import Store
from chatlab.web.http import BEARER, HEALTH, HttpApi, answer, answer_errors
from chatlab.web.pages import add_pages
from chatlab.web.projector_api import LabApi
from chatlab.web.sockets import SocketApi, SocketGuard, socket_server
from chatlab.web.watchdog import ExitDeadline, Watchdog

SOCKETS = "/socket.io/"
log = logging.getLogger(__name__)
flow_log = logging.getLogger("chatlab.flow")


@dataclass(frozen=True)
class Parts:
    """What a running service is made of: `app.state.parts`."""

    settings: Settings
    flow: EventBus
    store: Store
    cache: Cache
    hub: Hub
    accounts: Accounts
    service: Service


class Chatlab(FastAPI):
    """The application. The hot routes pass its layers by: `http_api` says which they are, and answers them.

    So do sockets: each would hold the layers' frames, about 10 KB of them, for as long as it is open.
    """

    http_api: HttpApi | None = None
    sockets: SocketGuard | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.sockets and scope["type"] == "websocket" and scope["path"].startswith(SOCKETS):
            await self.sockets(scope, receive, send)
        elif self.http_api and (hot := self.http_api.hot_endpoint(scope)):
            await answer(hot, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service as one ASGI application. Without URLs in the settings it brings private engines."""
    settings = settings or load_settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: Chatlab) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            _end_with_parent()
            _limit_stopping(app, settings)
            metrics.remove_dead_processes()
            urls = await _urls(settings, stack)
            sockets = socket_server(settings.max_body)
            parts = app.state.parts = await _parts(settings, urls, sockets, stack)
            socket_api = SocketApi(sockets, parts.service, parts.accounts, parts.hub, parts.flow)
            socket_api.open()
            stack.push_async_callback(_within, 0.4, socket_api.close)
            _add_routes(app, parts, sockets, socket_api)
            await _open_sweeper(parts, urls, stack)
            yield

    app = Chatlab(title="chatlab", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    answer_errors(app)
    for path in ("/healthz", "/readyz"):
        app.add_api_route(path, _health, summary="Is everything there?", response_model=None, responses=HEALTH)
    app.add_api_route("/metrics", _metrics, summary="Prometheus metrics", response_model=None)
    add_pages(app, lab=settings.flow)
    return app


def _end_with_parent() -> None:
    """A worker whose parent was killed leaves as if it had been told to: it would keep the port."""
    parent = multiprocessing.parent_process()
    if parent:
        asyncio.get_running_loop().add_reader(parent.sentinel, _leave, parent.sentinel)


def _limit_stopping(app: FastAPI, settings: Settings) -> None:
    """End this process in time after SIGTERM, whatever hangs."""
    loop = asyncio.get_running_loop()

    def left() -> str:
        parts: Parts | None = getattr(app.state, "parts", None)
        tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks(loop))  # type: ignore[union-attr]  # coroutines have names
        saves = f"{parts.store.unsaved} messages not saved, {parts.store.calls.under_way} calls to MongoDB, " if parts else ""
        return f"{saves}{len(tasks)} tasks ({', '.join(dict.fromkeys(tasks))})"

    ExitDeadline(settings.exit_limit_s, left).watch_signals()


def _watch(store: Store, stack: contextlib.AsyncExitStack) -> None:
    """Measure the event loop and the calls to MongoDB until the service stops."""
    watching = asyncio.create_task(Watchdog(store.calls, store.pool).run())
    stack.callback(watching.cancel)


def _leave(sentinel: int) -> None:
    asyncio.get_running_loop().remove_reader(sentinel)
    signal.raise_signal(signal.SIGTERM)


async def _urls(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[str, str]:
    """Where MongoDB and Redis are; private ones are started, or joined."""
    if settings.mongo_url and settings.redis_url:
        return settings.mongo_url, settings.redis_url
    engines = await asyncio.to_thread(open_engines, settings)
    stack.push_async_callback(asyncio.to_thread, engines.close)
    return engines.mongo.url, engines.redis.url


async def _parts(settings: Settings, urls: tuple[str, str], sockets: socketio.AsyncServer, stack: contextlib.AsyncExitStack) -> Parts:
    mongo_url, redis_url = urls
    flow = _flow(settings)
    cache = Cache(connect(redis_url, answer=CALL_LIMIT_S), settings, flow)
    store = Store(mongo_url, settings.database, clock=cache.clock)
    subscriber = connect(redis_url, answer=SUBSCRIBED_WITHIN, connected=SUBSCRIBED_WITHIN)
    hub = Hub(sockets, cache.pipe, subscriber, settings.key_prefix)
    cache.others = hub.has_peers
    accounts = Accounts(store, login_limit=settings.login_limit, session_days=settings.session_days, rate_limit=settings.rate_limit)
    stack.callback(metrics.remove_this_process)
    stack.push_async_callback(_within, 0.4, cache.close)
    stack.push_async_callback(_within, 2, store.close)  # what waits to be saved is saved
    stack.push_async_callback(_within, 0.4, hub.close)
    await asyncio.gather(cache.open(), store.open())
    _watch(store, stack)
    await hub.open()
    return Parts(settings, flow, store, cache, hub, accounts, Service(store, cache, hub, accounts))


async def _within(seconds: float, close: Callable[[], Awaitable[None]]) -> None:
    """Close one part. A stopping service waits for none for ever, whatever the engine behind it does."""
    closing = asyncio.ensure_future(close())
    done, _ = await asyncio.wait([closing], timeout=seconds)
    if done:
        closing.result()
    else:
        log.warning("%s did not end within %g s; leaving without it", getattr(close, "__qualname__", "a part"), seconds)
        closing.cancel()


def _flow(settings: Settings) -> EventBus:
    """The flow; with `CHATLAB_FLOW` the log and the metrics hear it."""
    flow = EventBus()
    if settings.flow:
        flow.subscribe(_log_event)
        flow.subscribe(metrics.count_stage)
    return flow


def _log_event(event: StageEvent) -> None:
    about = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("at", "stage", "trace", "door"))
    flow_log.info("%s %s %s %s", event["trace"], event["door"], event["stage"], about)


def _add_routes(app: Chatlab, parts: Parts, sockets: socketio.AsyncServer, socket_api: SocketApi) -> None:
    settings = parts.settings
    http_api = HttpApi(parts.service, parts.accounts, parts.flow, max_body=settings.max_body, end_sockets=socket_api.end)
    app.http_api = http_api
    app.include_router(http_api.router())
    _describe_bearer(app)
    if settings.flow:
        socket_api.open_flow()
        app.include_router(LabApi(http_api, parts.cache, settings).router())
    door = socketio.ASGIApp(sockets, socketio_path="socket.io")
    app.sockets = SocketGuard(door, connect_timeout=settings.connect_timeout, stalled_timeout=settings.stalled_timeout)
    app.mount(SOCKETS.rstrip("/"), app.sockets)


def _describe_bearer(app: FastAPI) -> None:
    """OpenAPI with the bearer token that the routes ask for."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        schema.setdefault("components", {})["securitySchemes"] = BEARER
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the schema


async def _open_sweeper(parts: Parts, urls: tuple[str, str], stack: contextlib.AsyncExitStack) -> None:
    if not parts.settings.sweeper:
        return
    redis = connect(urls[1], answer=None)
    sweeper = Sweeper(redis, parts.settings, parts.flow)
    parts.cache.on_kept = sweeper.expect
    sweeping = asyncio.create_task(sweeper.run())

    async def stop() -> None:
        sweeping.cancel()
        await asyncio.wait([sweeping])
        await redis.aclose()

    stack.push_async_callback(_within, 0.4, stop)


async def _health(request: Request) -> Response:
    """200 when messages can be saved (`degraded` without Redis), 503 with the part that is down."""
    parts: Parts = request.app.state.parts
    mongodb, redis = await asyncio.gather(_is_up(parts.store), parts.cache.pipe.ask("PING"))
    status = "unavailable" if not mongodb else "degraded" if redis is None else "ok"
    body = {"status": status, "mongodb": "up" if mongodb else "down", "redis": "up" if redis is not None else "down"}
    return JSONResponse(body, 200 if mongodb else 503)


async def _is_up(store: Store) -> bool:
    try:
        await store.ping()
    except StoreUnavailable:
        return False
    return True


async def _metrics() -> Response:
    return Response(metrics.prometheus_text(), media_type="text/plain; version=0.0.4; charset=utf-8")
