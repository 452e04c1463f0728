"""The routes for operations: `/healthz`, `/readyz` and `/metrics`."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from chatlab import metrics
from chatlab.errors import StoreUnavailable
from chatlab.store.store import Store
from chatlab.web.dependencies import CacheDep, DrainDep, StoreDep, forbid_storing

UpOrDown = Literal["up", "down"]
Status = Literal["ok", "degraded", "unavailable", "migrating", "stopping"]


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """`degraded`: without Redis, the service works more slowly.

    `migrating`: the indexes in MongoDB are being built. `stopping`: the process will soon end.
    """

    status: Status
    mongodb: UpOrDown
    redis: UpOrDown


READINESS: dict[str, Any] = {
    "summary": "Check whether the service may get requests",
    "response_description": "The service can save messages",
    "responses": {
        503: {
            "model": Readiness,
            "description": "The service cannot save messages, or will soon end",
        }
    },
}

routes = APIRouter(dependencies=[Depends(forbid_storing)])
metrics_routes = APIRouter()


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz", summary="Check whether the process responds")
async def _healthz() -> Alive:
    """Return 200. A process that does not answer should be restarted.

    This does not depend on MongoDB and Redis: a restart does not repair them.
    """
    return Alive()


@routes.head("/readyz", include_in_schema=False)
@routes.get("/readyz", **READINESS)
async def _readyz(
    response: Response, store: StoreDep, cache: CacheDep, drain: DrainDep
) -> Readiness:
    """Return 200 if messages can be saved and the service is not about to stop, else 503.

    Without Redis the service works more slowly, so the answer is 200 with the status `degraded`.
    """
    mongodb, redis = await asyncio.gather(_answers(store), cache.pipe.execute("PING"))
    is_migrating = store.mongo.is_migrating
    problems: list[tuple[Status, bool]] = [
        ("stopping", drain.has_begun),
        ("migrating", is_migrating),
        ("unavailable", not mongodb),
        ("degraded", redis is None),
    ]
    status: Status = next((name for name, is_so in problems if is_so), "ok")
    response.status_code = 200 if status in ("ok", "degraded") else 503
    return Readiness(
        status=status,
        mongodb="up" if mongodb or is_migrating else "down",
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
