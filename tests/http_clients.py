"""HTTP clients for tests.

By default, httpx loads the certificates of the system for each client, which needs 60 ms of
processor time. These clients share one TLS context without certificates: tests use plain HTTP.
"""

import ssl
from typing import Any

import httpx
from waiting import LIMIT_S

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def open_client(url: str = "", **options: Any) -> httpx.AsyncClient:
    """Return a client whose requests are relative to this URL."""
    return httpx.AsyncClient(**{"base_url": url, "timeout": LIMIT_S, "verify": TLS, **options})


def fetch(url: str, **options: Any) -> httpx.Response:
    """Send one GET request."""
    return httpx.get(url, **{"timeout": LIMIT_S, "verify": TLS, **options})
