"""The routes under `/api/lab`, for the page `/lab` only: its users, live cache keys, two settings.

They exist only with `CHATLAB_FLOW`. `lab_access` says who may use them. A changed setting applies
to this process until it ends. It is rejected when other processes share the cache, because they
would keep their settings.
"""

import asyncio
import itertools
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from chatlab.cache.cache import Cache
from chatlab.cache.live_keys import remaining_ttls_ms, value_of
from chatlab.connections.mongo import Document
from chatlab.domain.ids import conversation_of
from chatlab.domain.message import from_json
from chatlab.domain.requests import LabSettings
from chatlab.errors import Conflict
from chatlab.settings import Settings
from chatlab.web.dependencies import (
    CacheDep,
    SettingsDep,
    StageDep,
    body_of,
    describe_body,
    forbid_storing,
)
from chatlab.web.lab_access import LabAccess, RoleDep, lab_role, require_presenter
from chatlab.web.problems import ERROR_RESPONSES
from chatlab.web.replay_page import replay_page
from chatlab.web.response_models import LabKeys, LabState, LabValue, Session

MAX_KEYS = 5_000  # keys in one response: more than a page can show
MAX_VALUES = 10  # in one response

routes = APIRouter(
    prefix="/api/lab",
    responses=ERROR_RESPONSES,
    dependencies=[Depends(lab_role), Depends(forbid_storing)],
)
for_presenter = [Depends(require_presenter)]


@routes.post("/users", dependencies=for_presenter, response_model=list[Session])
async def open_stage(stage: StageDep) -> list[Document]:
    """Return a session of each user of the page. They are in no list of users."""
    return await stage.open()


@routes.get("/settings", response_model=LabState)
async def current_settings(
    request: Request, role: RoleDep, stage: StageDep, cache: CacheDep, settings: SettingsDep
) -> dict[str, Any]:
    """Return the current settings, those at start-up, and what the client may do."""
    access: LabAccess = request.app.state.lab_access
    is_presenter = role == "presenter"
    return {
        "cacheTtl": cache.ttl_ms / 1000,
        "cacheMode": cache.mode,
        "usualTtl": settings.cache_ttl,
        "usualMode": settings.cache_mode,
        "canTurn": has_own_cache(cache, settings) and is_presenter,
        "role": role,
        "viewerKey": access.viewer_key if is_presenter else None,
        "users": await stage.profiles(),
        "sweeper": sweeper_place(request, settings),
    }


def sweeper_place(request: Request, settings: Settings) -> str:
    """Return `here`, or where else the sweeper runs: this process does not see its sweeps."""
    sweeper = request.app.state.sweeper
    if sweeper is None:
        return "another process"
    if settings.workers > 1:
        return "one of the workers"
    other = sweeper.other_process
    return "here" if other is None else f"process {other}"


@routes.put(
    "/settings",
    response_model=LabState,
    dependencies=for_presenter,
    openapi_extra=describe_body(LabSettings),
)
async def update_settings(
    wanted: Annotated[LabSettings, body_of(LabSettings)],
    request: Request,
    role: RoleDep,
    stage: StageDep,
    cache: CacheDep,
    settings: SettingsDep,
) -> dict[str, Any]:
    """Change the TTL or the cache mode of this process from now on.

    Those who may only watch get 403. When several processes share the cache, the response is 409.
    """
    if not has_own_cache(cache, settings):
        raise Conflict(
            "Several processes share this cache, and this request would change only one "
            "of them. Start the service with one worker."
        )
    ttl_ms = None if wanted.cacheTtl is None else round(wanted.cacheTtl * 1000)
    await cache.reconfigure(ttl_ms, wanted.cacheMode)
    return await current_settings(request, role, stage, cache, settings)


@routes.get("/keys", response_model=LabKeys)
async def keys(
    role: RoleDep,
    cache: CacheDep,
    state: Annotated[dict[str, Any], Depends(current_settings)],
) -> dict[str, Any]:
    """Return the live keys with their remaining milliseconds, and the settings.

    Those who may only watch see the conversation of the page, and how many other keys there are.
    `keys` is null when Redis does not answer.
    """
    pttls = await remaining_ttls_ms(cache.servers.all(), cache.keys.pattern)
    own = _windows(cache, state["users"])
    shown = {key: ttl for key, ttl in (pttls or {}).items() if role == "presenter" or key in own}
    return {
        "at": time.time() * 1000,
        "keys": None if pttls is None else dict(itertools.islice(shown.items(), MAX_KEYS)),
        "live": len(pttls or ()),
        "settings": state,
    }


@routes.get("/player")
async def player() -> dict[str, str]:
    """Return a page without a recording, which the page `/lab` adds before it saves the file."""
    return {"page": await asyncio.to_thread(replay_page)}


@routes.get("/values", dependencies=for_presenter, response_model=dict[str, LabValue])
async def values(
    wanted: Annotated[list[str], Query(alias="key", max_length=MAX_VALUES)],
    cache: CacheDep,
    state: Annotated[dict[str, Any], Depends(current_settings)],
) -> dict[str, dict[str, Any]]:
    """Return the values of keys of the page's own users, as Redis has them now.

    A key that does not exist is left out, and so is a key of other users.
    """
    keys = [key for key in wanted if key.startswith(cache.keys.prefix)]
    found = await asyncio.gather(*(value_of(cache.pipe, key) for key in keys))
    return {
        key: one
        for key, one in zip(keys, found, strict=True)
        if one and _is_of_stage(key, one["value"], cache, state["users"])
    }


def _is_of_stage(key: str, value: list[str], cache: Cache, users: list[Document]) -> bool:
    """Return whether a key is a window of these users, or a message between two of them."""
    if not key.startswith(cache.keys.message("")):
        return key in _windows(cache, users)
    message, ids = from_json(value[0].encode()), {user["id"] for user in users}
    return message is not None and {message.sender_id, message.receiver_id} <= ids


def _windows(cache: Cache, users: list[Document]) -> set[str]:
    ids = [user["id"] for user in users]
    pairs = itertools.combinations(ids, 2)
    return {cache.keys.window(conversation_of(one, other)) for one, other in pairs}


def has_own_cache(cache: Cache, settings: Settings) -> bool:
    return settings.workers == 1 and not cache.has_peers()
