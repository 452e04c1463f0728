"""The routes for operations: `/healthz`, `/readyz` and `/metrics`."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from chatlab import metrics
from chatlab.errors import StoreUnavailable
from chatlab.store.store import Store
from chatlab.web.dependencies import CacheDep, StoreDep, forbid_storing

UpOrDown = Literal["up", "down"]


class Health(BaseModel):
    """Without Redis the service works more slowly. This status is `degraded`."""

    status: Literal["ok", "degraded", "unavailable"]
    mongodb: UpOrDown
    redis: UpOrDown


HEALTH: dict[str, Any] = {
    "summary": "Check MongoDB and Redis",
    "response_description": "The service can save messages",
    "responses": {
        503: {
            "model": Health,
            "description": "The service cannot save messages: MongoDB cannot answer",
        }
    },
}

routes = APIRouter(dependencies=[Depends(forbid_storing)])
metrics_routes = APIRouter()


@routes.get("/readyz", **HEALTH)
@routes.get("/healthz", **HEALTH)
async def _health(response: Response, store: StoreDep, cache: CacheDep) -> Health:
    """Return 200 if messages can be saved, else 503.

    Without Redis the service works more slowly, so the answer is 200 with the status `degraded`.
    """
    mongodb, redis = await asyncio.gather(_answers(store), cache.pipe.execute("PING"))
    response.status_code = 200 if mongodb else 503
    return Health(
        status="unavailable" if not mongodb else "degraded" if redis is None else "ok",
        mongodb="up" if mongodb else "down",
        redis="down" if redis is None else "up",
    )


async def _answers(store: Store) -> bool:
    try:
        await store.mongo.ping()
    except StoreUnavailable:
        return False
    return True


@metrics_routes.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def _metrics() -> Response:
    media_type = "text/plain; version=0.0.4; charset=utf-8"
    headers = {"cache-control": "no-store"}
    return Response(metrics.prometheus_text(), headers=headers, media_type=media_type)
