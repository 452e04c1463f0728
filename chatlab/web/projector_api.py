"""What the page `/lab` asks besides the two doors, only with `CHATLAB_FLOW`: the keys that live now, and two settings to turn.

Only who sits at the machine that the service runs on turns them and sees the keys: anybody may sign up.
A turned setting holds for this process until it ends. Where other processes share the cache it is refused: they would go on as before.
"""

import asyncio
import ipaddress
import time
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from chatlab.cache.cache import Cache
from chatlab.domain.requests import LabSettings
from chatlab.errors import Conflict, Forbidden
from chatlab.settings import Settings
from chatlab.web.http import HttpApi

MOST = 5_000  # keys in one answer: more than a page can show


class LabApi:
    def __init__(self, http_api: HttpApi, cache: Cache, settings: Settings) -> None:
        self._http_api, self._cache, self._settings = http_api, cache, settings
        self._turning = asyncio.Lock()

    def router(self) -> APIRouter:
        routes = APIRouter(prefix="/api/lab", include_in_schema=False)
        routes.add_api_route("/settings", self.settings, methods=["GET"], response_model=None)
        routes.add_api_route("/settings", self.turn, methods=["PUT"], response_model=None)
        routes.add_api_route("/keys", self.keys, methods=["GET"], response_model=None)
        return routes

    async def settings(self, request: Request) -> Response:
        """The two settings as they are, as they were at the start, and whether this page may turn them."""
        await self._http_api.user_of(request)
        return self._as_they_are(request)

    async def turn(self, request: Request) -> Response:
        """Another life, another mode, from now on. Raises Forbidden when not from here, Conflict when this process is not the only one."""
        await self._http_api.user_of(request)
        must_be_here(request)
        asked = await self._http_api.asked(LabSettings, request)
        async with self._turning:
            if not self._alone:
                raise Conflict("Several processes share this cache, and this would turn only one of them: start it with one worker.")
            ttl_ms = self._cache.ttl_ms if asked.cacheTtl is None else round(asked.cacheTtl * 1000)
            await self._cache.retune(ttl_ms, asked.cacheMode or self._cache.mode)
        return self._as_they_are(request)

    async def keys(self, request: Request) -> Response:
        """Every living key with its milliseconds, and the settings. `keys` is null when Redis does not answer. Raises Forbidden."""
        await self._http_api.user_of(request)
        must_be_here(request)
        lives = await self._cache.lives()
        some = None if lives is None else dict(list(lives.items())[:MOST])
        return _json({"at": time.time() * 1000, "keys": some, "live": len(lives or ()), "settings": self._settings_now(request)})

    def _as_they_are(self, request: Request) -> Response:
        return _json(self._settings_now(request))

    def _settings_now(self, request: Request) -> dict[str, Any]:
        now = {"cacheTtl": self._cache.ttl_ms / 1000, "cacheMode": self._cache.mode}
        usual = {"usualTtl": self._settings.cache_ttl, "usualMode": self._settings.cache_mode}
        return now | usual | {"canTurn": self._alone and is_here(_peer(request))}

    @property
    def _alone(self) -> bool:
        return self._settings.workers == 1 and not self._cache.others()


def is_here(address: str) -> bool:
    """True for an address of this machine's loopback."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def must_be_here(request: Request) -> None:
    if not is_here(_peer(request)):
        raise Forbidden("Only a browser on the machine that the service runs on may turn its settings and see its keys.")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"cache-control": "no-store"})
