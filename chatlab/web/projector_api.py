"""The routes under `/api/lab`, for the page `/lab` only: live cache keys and two cache settings.

They exist only with `CHATLAB_FLOW`. Reading keys and changing settings is limited to browsers on
the machine of the service, because anybody may sign up. A change applies to this process until it
ends. It is rejected when other processes share the cache, because they would keep their settings.
"""

import ipaddress
import itertools
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from chatlab.cache.cache import Cache
from chatlab.cache.live_keys import remaining_ttls_ms
from chatlab.domain.requests import LabSettings
from chatlab.errors import Conflict, Forbidden
from chatlab.settings import Settings
from chatlab.web.dependencies import (
    CacheDep,
    ClientAddress,
    SettingsDep,
    body_of,
    current_user,
    describe_body,
    forbid_storing,
)
from chatlab.web.problems import ERROR_RESPONSES
from chatlab.web.response_models import LabKeys, LabState

MAX_KEYS = 5_000  # keys in one response: more than a page can show


def is_loopback(address: str) -> bool:
    """Return whether this is a loopback address, in IPv4, IPv6, or IPv4 mapped to IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


async def require_loopback(address: ClientAddress) -> None:
    """Raise Forbidden unless the client runs on this machine."""
    if not is_loopback(address):
        raise Forbidden(
            "Only a browser on the service's own machine may change its settings and see its keys."
        )


routes = APIRouter(
    prefix="/api/lab",
    responses=ERROR_RESPONSES,
    dependencies=[Depends(current_user), Depends(forbid_storing)],
)


@routes.get("/settings", response_model=LabState)
async def current_settings(
    address: ClientAddress, cache: CacheDep, settings: SettingsDep
) -> dict[str, Any]:
    """Return the current settings, those at start-up, and if the client may change them."""
    return {
        "cacheTtl": cache.ttl_ms / 1000,
        "cacheMode": cache.mode,
        "usualTtl": settings.cache_ttl,
        "usualMode": settings.cache_mode,
        "canTurn": has_own_cache(cache, settings) and is_loopback(address),
    }


@routes.put(
    "/settings",
    response_model=LabState,
    dependencies=[Depends(require_loopback)],
    openapi_extra=describe_body(LabSettings),
)
async def update_settings(
    wanted: Annotated[LabSettings, body_of(LabSettings)],
    address: ClientAddress,
    cache: CacheDep,
    settings: SettingsDep,
) -> dict[str, Any]:
    """Change the TTL or the cache mode of this process from now on.

    Raises Forbidden for a client on another machine, Conflict when processes share the cache.
    """
    if not has_own_cache(cache, settings):
        raise Conflict(
            "Several processes share this cache, and this request would change only one "
            "of them. Start the service with one worker."
        )
    ttl_ms = None if wanted.cacheTtl is None else round(wanted.cacheTtl * 1000)
    await cache.reconfigure(ttl_ms, wanted.cacheMode)
    return await current_settings(address, cache, settings)


@routes.get("/keys", response_model=LabKeys, dependencies=[Depends(require_loopback)])
async def keys(
    cache: CacheDep, settings: Annotated[dict[str, Any], Depends(current_settings)]
) -> dict[str, Any]:
    """Return the live keys with their remaining milliseconds, and the settings.

    `keys` is null when Redis does not answer. Raises Forbidden for a client on another machine.
    """
    pttls = await remaining_ttls_ms(cache.pipe, cache.keys.pattern)
    return {
        "at": time.time() * 1000,
        "keys": None if pttls is None else dict(itertools.islice(pttls.items(), MAX_KEYS)),
        "live": len(pttls or ()),
        "settings": settings,
    }


def has_own_cache(cache: Cache, settings: Settings) -> bool:
    return settings.workers == 1 and not cache.has_peers()
