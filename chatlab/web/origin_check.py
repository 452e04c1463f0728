"""Reject requests that a page of another site makes a browser send.

There are two checks, both before anything else happens, also on the fast path and for websockets.

* `Host` must name this service. A foreign site can let its own name point to this machine (DNS
  rebinding). Its page then has the same origin as the service, but `Host` has the foreign name.
* A request that may change something, and a websocket, must not come from a page of another
  origin. Browsers send `Sec-Fetch-Site` or `Origin`, which no page can forge. Requests without
  both come from programs, which have no session of somebody else to misuse.

A page of another origin cannot send JSON either, because `read_body` requires a content type for
which browsers ask the service first, and the service never permits it.
"""

import ipaddress
import logging
import os
import re
from functools import lru_cache

from starlette.responses import Response
from starlette.types import Scope

from chatlab.errors import ChatlabError, Forbidden, Misdirected
from chatlab.settings import PREFIX, Settings
from chatlab.web.dependencies import HEADERS
from chatlab.web.problems import error_response

log = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SAME_SITE = (b"same-origin", b"none")  # `none`: the user typed the address
MAX_HOST_BYTES = 260  # a name has at most 253 characters, a port 5
KNOWN_HOSTS = 256  # browsers and proxies of one service use few different ones

WRONG_HOST = Misdirected(
    "This service does not answer to the name in the header `Host`. If the name is yours, "
    f"add it to {PREFIX}ALLOWED_HOSTS."
)
WRONG_ORIGIN = Forbidden(
    "A page of another origin may not do this. If the page is yours, "
    f"add its origin to {PREFIX}ALLOWED_ORIGINS."
)


class OriginCheck:
    """Both checks, with the names and origins that the settings allow."""

    def __init__(self, settings: Settings) -> None:
        names = {"localhost", settings.host.lower(), *_words(settings.allowed_hosts)}
        # On JupyterHub, users reach the service only through the hub, under the name of the hub.
        self._any_host = "*" in names or "JUPYTERHUB_SERVICE_PREFIX" in os.environ
        self._names = names
        self._suffixes = (".localhost", *(name[1:] for name in names if name.startswith("*.")))
        self._origins = {origin.encode() for origin in _words(settings.allowed_origins)}
        self._is_ours = lru_cache(maxsize=KNOWN_HOSTS)(self._names_this_service)
        self._logged: set[ChatlabError] = set()

    def refuse(self, scope: Scope) -> Response | None:
        """Return the response to a request that must not be served, or None."""
        headers: dict[bytes, bytes] = scope[HEADERS]
        host = headers.get(b"host", b"")  # without it, HTTP/1.0: no browser sends that
        if host and not (len(host) <= MAX_HOST_BYTES and self._is_ours(host)):
            return self._refusal(WRONG_HOST)
        if scope.get("method") in SAFE_METHODS or self._is_same_origin(headers, host):
            return None
        return self._refusal(WRONG_ORIGIN)

    def _names_this_service(self, host: bytes) -> bool:
        if self._any_host:
            return True
        name = re.sub(r":\d*$", "", host.decode("latin-1").lower()).removesuffix(".")
        return name in self._names or name.endswith(self._suffixes) or _is_address(name)

    def _is_same_origin(self, headers: dict[bytes, bytes], host: bytes) -> bool:
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if origin in self._origins:
            return True
        if site is not None:  # also right behind a proxy that changes `Host`
            return site in SAME_SITE
        return origin is None or origin.partition(b"://")[2] == host

    def _refusal(self, error: ChatlabError) -> Response:
        if error not in self._logged:
            self._logged.add(error)
            log.warning("rejected a request: %s (logged once)", error.detail)
        return error_response(error)


def _words(setting: str) -> list[str]:
    return [word.strip().lower() for word in setting.split(",") if word.strip()]


def _is_address(name: str) -> bool:
    """Return whether this is an IP address, IPv6 in brackets: such a `Host` needs no DNS."""
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
