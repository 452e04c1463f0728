"""The private servers of `chatlab bench`: MongoDB, Redis, and a service for each cache setting."""

import contextlib
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from redis import Redis

from chatlab.bench.comparisons import NARROW_WINDOW, Variant, Variants
from chatlab.bench.memory import MemoryProbe
from chatlab.bench.raw_http import RawHttpClient
from chatlab.local.engines import Engines, open_engines
from chatlab.run.child import child_service
from chatlab.settings import CacheMode, Settings

PASSWORD = "measured by chatlab bench"  # noqa: S105 - of users that exist for a minute
# Each service has its own key prefix; with the same one they would act as processes of one service.
VARIANT_SETTINGS: dict[str, dict[str, object]] = {
    "off": {"cache_mode": CacheMode.OFF, "key_prefix": "off:"},
    "window": {"cache_mode": CacheMode.WINDOW},
    "narrow": {
        "cache_mode": CacheMode.WINDOW,
        "key_prefix": "narrow:",
        "window_size": NARROW_WINDOW,
    },
}

Step = Callable[[str], None]


class BenchEnvironment(NamedTuple):
    engines: Engines
    variants: Variants
    memory: MemoryProbe


@contextlib.contextmanager
def open_environment(settings: Settings, step: Step) -> Iterator[BenchEnvironment]:
    """Start all servers in a temporary folder, apart from the user's own servers and messages.

    `step` is called with a description of what begins.
    """
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="chatlab-bench-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        private = {"mongo_url": None, "redis_url": None, "data_dir": folder}
        engines = stack.enter_context(open_engines(settings.model_copy(update=private)))
        step("starting three services")
        base = _default_settings(settings, engines, folder)
        urls = {
            name: stack.enter_context(child_service(base.model_copy(update=changes), flow=False))
            for name, changes in VARIANT_SETTINGS.items()
        }
        stack.callback(_drop_database, engines, base.database)
        partners = [f"partner-{name}" for name in urls]
        token = sign_up(urls["off"], ["reader", "short", "long", *partners])
        variants = {
            name: Variant(stack.enter_context(RawHttpClient(url, token)), f"partner-{name}")
            for name, url in urls.items()
        }
        redis = stack.enter_context(contextlib.closing(Redis.from_url(engines.redis.url)))
        memory = MemoryProbe(redis, lambda: RawHttpClient(urls["window"], token), partners)
        yield BenchEnvironment(engines, variants, memory)


def _default_settings(settings: Settings, engines: Engines, folder: Path) -> Settings:
    """Return the default settings, whatever the environment says, without a rate limit."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    bench = {
        "mongo_url": engines.mongo.url,
        "redis_url": engines.redis.url,
        "data_dir": folder / "services",
        "port": 0,
        "rate_limit": 0,
        "database": f"bench-{secrets.token_hex(4)}",
        "log_level": "WARNING",
    }
    return settings.model_copy(update=defaults | bench)


def _drop_database(engines: Engines, database: str) -> None:
    with MongoClient[dict[str, Any]](engines.mongo.url) as mongo:
        mongo.drop_database(database)


def sign_up(url: str, names: list[str]) -> str:
    """Sign up these users and return the token of the first one."""
    tokens = []
    for name in names:
        body = json.dumps({"username": name, "password": PASSWORD}).encode()
        with RawHttpClient(url) as client:
            reply = client.request("POST", "/api/auth/signup", body)
        tokens.append(json.loads(reply.body)["token"])
    return str(tokens[0])
