"""The routes for operations: `/healthz`, `/readyz` and `/metrics`."""

import asyncio

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chatlab import metrics
from chatlab.cache.cache import Cache
from chatlab.errors import StoreUnavailable
from chatlab.store.store import Store
from chatlab.web.openapi import HEALTH_RESPONSES


def add_health_routes(app: FastAPI) -> None:
    """Add the routes. They read `app.state.store` and `app.state.cache`, set at start-up."""
    for path in ("/healthz", "/readyz"):
        app.add_api_route(
            path,
            _health,
            summary="Check MongoDB and Redis",
            response_model=None,
            responses=HEALTH_RESPONSES,
        )
    app.add_api_route("/metrics", _metrics, summary="Prometheus metrics", response_model=None)


async def _health(request: Request) -> Response:
    """Return 200 if messages can be saved, else 503.

    Without Redis the service works more slowly, so the answer is 200 with the status `degraded`.
    """
    store: Store = request.app.state.store
    cache: Cache = request.app.state.cache
    mongodb, redis = await asyncio.gather(_answers(store), cache.pipe.execute("PING"))
    status = "unavailable" if not mongodb else "degraded" if redis is None else "ok"
    parts = {"mongodb": "up" if mongodb else "down", "redis": "down" if redis is None else "up"}
    return JSONResponse({"status": status, **parts}, 200 if mongodb else 503)


async def _answers(store: Store) -> bool:
    try:
        await store.mongo.ping()
    except StoreUnavailable:
        return False
    return True


async def _metrics() -> Response:
    media_type = "text/plain; version=0.0.4; charset=utf-8"
    return Response(metrics.prometheus_text(), media_type=media_type)
