"""The routes under `/api/lab`, for the page `/lab` only: live cache keys and two cache settings.

They exist only with `CHATLAB_FLOW`. Reading keys and changing settings is limited to browsers on
the machine of the service, because anybody may sign up. A change applies to this process until it
ends. It is rejected when other processes share the cache, because they would keep their settings.
"""

import asyncio
import ipaddress
import itertools
import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from chatlab.cache.cache import Cache
from chatlab.cache.live_keys import remaining_ttls_ms
from chatlab.domain.requests import LabSettings
from chatlab.errors import Conflict, Forbidden
from chatlab.settings import Settings
from chatlab.web.request_reader import RequestReader
from chatlab.web.responses import json_response

MAX_KEYS = 5_000  # keys in one response: more than a page can show


class ProjectorApi:
    def __init__(self, reader: RequestReader, cache: Cache, settings: Settings) -> None:
        self._reader, self._cache, self._settings = reader, cache, settings
        self._updating = asyncio.Lock()

    def router(self) -> APIRouter:
        """Return the routes; they are not part of OpenAPI."""
        routes = APIRouter(prefix="/api/lab", include_in_schema=False)
        add = routes.add_api_route
        add("/settings", self.settings, methods=["GET"], response_model=None)
        add("/settings", self.update_settings, methods=["PUT"], response_model=None)
        add("/keys", self.keys, methods=["GET"], response_model=None)
        return routes

    async def settings(self, request: Request) -> Response:
        """Return the current settings, those at start-up, and if the client may change them."""
        await self._reader.authenticate(request)
        return json_response(self._current_settings(request))

    async def update_settings(self, request: Request) -> Response:
        """Change the TTL or the cache mode of this process from now on.

        Raises Forbidden for a client on another machine, Conflict when processes share the cache.
        """
        await self._reader.authenticate(request)
        require_loopback(request)
        wanted = await self._reader.parse_body(LabSettings, request)
        async with self._updating:
            if not self._has_own_cache:
                raise Conflict(
                    "Several processes share this cache, and this request would change only one "
                    "of them. Start the service with one worker."
                )
            seconds = wanted.cacheTtl
            ttl_ms = self._cache.ttl_ms if seconds is None else round(seconds * 1000)
            await self._cache.reconfigure(ttl_ms, wanted.cacheMode or self._cache.mode)
        return json_response(self._current_settings(request))

    async def keys(self, request: Request) -> Response:
        """Return the live keys with their remaining milliseconds, and the settings.

        `keys` is null when Redis does not answer. Raises Forbidden for a client on another machine.
        """
        await self._reader.authenticate(request)
        require_loopback(request)
        pttls = await remaining_ttls_ms(self._cache.pipe, self._cache.keys.pattern)
        keys = None if pttls is None else dict(itertools.islice(pttls.items(), MAX_KEYS))
        return json_response(
            {
                "at": time.time() * 1000,
                "keys": keys,
                "live": len(pttls or ()),
                "settings": self._current_settings(request),
            }
        )

    def _current_settings(self, request: Request) -> dict[str, Any]:
        return {
            "cacheTtl": self._cache.ttl_ms / 1000,
            "cacheMode": self._cache.mode,
            "usualTtl": self._settings.cache_ttl,
            "usualMode": self._settings.cache_mode,
            "canTurn": self._has_own_cache and is_loopback(_client_address(request)),
        }

    @property
    def _has_own_cache(self) -> bool:
        return self._settings.workers == 1 and not self._cache.has_peers()


def is_loopback(address: str) -> bool:
    """Return whether this is a loopback address, in IPv4, IPv6, or IPv4 mapped to IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def require_loopback(request: Request) -> None:
    """Raise Forbidden unless the client runs on this machine."""
    if not is_loopback(_client_address(request)):
        raise Forbidden(
            "Only a browser on the service's own machine may change its settings and see its keys."
        )


def _client_address(request: Request) -> str:
    return request.client.host if request.client else ""
