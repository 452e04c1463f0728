"""Every setting: its environment variable, its default, what is allowed, and what it is for.

The only module that reads the environment. `chatlab serve --help` prints this list from the fields below.
"""

import difflib
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from platformdirs import user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "CHATLAB_"
CLOSE_LIMIT_S = 4  # seconds to close everything once the requests in flight have ended, or their time is up


class CacheMode(StrEnum):
    """How a conversation is read. `off` also writes nothing to Redis."""

    WINDOW = "window"
    DRAWN = "drawn"
    OFF = "off"


CacheTtl = Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False, description="seconds a cached message lives")]


class Settings(BaseSettings):
    """Read once at start; a wrong value stops the start with the variable, the value and what is allowed."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    mongo_url: Annotated[
        str | None, Field(pattern=r"^mongodb(\+srv)?://", description="MongoDB to use; unset: a private one is started")
    ] = None
    redis_url: Annotated[
        str | None, Field(pattern=r"^(redis|rediss|unix)://", description="Redis to use; unset: a private one is started")
    ] = None
    mongod: Annotated[Path | None, Field(description="mongod to start; unset: the PATH, then the wheel")] = None
    redis_server: Annotated[Path | None, Field(description="redis-server (or valkey-server) to start; unset: the PATH, then the wheel")] = (
        None
    )
    database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,38}$", description="MongoDB database")] = "chatlab"
    data_dir: Annotated[Path, Field(description="folder of the private engines' data")] = user_data_path("chatlab")
    cache_ttl: CacheTtl = 5
    sweep_interval: Annotated[float, Field(ge=0.05, le=3_600, allow_inf_nan=False, description="seconds between two sweeps")] = 1
    sweeper: Annotated[
        bool, Field(description="run the sweeper inside the service, in one process at a time (off: run `chatlab sweep` beside it)")
    ] = True
    cache_mode: Annotated[
        CacheMode, Field(description="window: reads from Redis when it can; drawn: reads ask MongoDB, as the diagram; off: no cache at all")
    ] = CacheMode.WINDOW
    window_size: Annotated[int, Field(ge=1, le=10_000, description="messages a conversation window holds at most; filled, no more KB")] = (
        500
    )
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,64}$", description="goes before every Redis key and channel")] = ""
    flow: Annotated[
        bool, Field(description="report every box a message passes on the Socket.IO namespace /flow of the process one is connected to")
    ] = False
    host: Annotated[str, Field(min_length=1, description="address the service listens on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="port the service listens on; 0 takes a free one")] = 8000
    workers: Annotated[int, Field(ge=1, le=64, description="processes that serve")] = 1
    rate_limit: Annotated[
        float,
        Field(
            ge=0,
            le=1_000_000,
            allow_inf_nan=False,
            description="requests and events a second for one user in each process, burst twice that; 0 is off",
        ),
    ] = 100
    login_limit: Annotated[
        int, Field(ge=0, le=100_000, description="log-in attempts a minute for one name and one address in each process; 0 is off")
    ] = 10
    session_days: Annotated[float, Field(gt=0, le=3_650, description="days a token lives")] = 30
    max_body: Annotated[int, Field(ge=1_024, le=16_777_216, description="bytes of a request body or a socket event")] = 65_536
    connect_timeout: Annotated[float, Field(gt=0, le=3_600, description="seconds a socket has to authenticate")] = 5
    stalled_timeout: Annotated[float, Field(gt=0, le=3_600, description="seconds a client may leave its events unread")] = 10
    shutdown_timeout: Annotated[float, Field(gt=0, le=600, description="seconds a stopping service gives to what is in flight")] = 6
    log_level: Annotated[str, Field(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR")] = "INFO"

    @property
    def exit_limit_s(self) -> float:
        """Seconds after SIGTERM at which a process that has not stopped is ended: 10 with the default `shutdown_timeout`."""
        return self.shutdown_timeout + CLOSE_LIMIT_S

    @property
    def ttl_ms(self) -> int:
        """Life of a cached message, in milliseconds."""
        return round(self.cache_ttl * 1000)


class SettingsError(Exception):
    """One line for each wrong variable."""


def load_settings(**given: object) -> Settings:
    """The settings from the environment; `given` (from the command line) wins. Raises SettingsError."""
    complaints = _misspelt()
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as wrong:
        raise SettingsError("\n".join(complaints + [_complaint(error) for error in wrong.errors()])) from None
    if complaints:
        raise SettingsError("\n".join(complaints))
    return settings


def _misspelt() -> list[str]:
    """A variable of ours that is no setting would be ignored without a word, and somebody would believe that it holds."""
    names = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown = sorted(name for name, value in os.environ.items() if value and name.startswith(PREFIX) and name.upper() not in names)
    return [f"{name}: there is no such setting{_nearest(name, names)}" for name in unknown]


def _nearest(name: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(name.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in names], n=1)
    return f"; did you mean {PREFIX}{nearest[0]}?" if nearest else ""


def _complaint(error: object) -> str:
    assert isinstance(error, dict)
    name = str(error["loc"][0])
    allowed = Settings.model_fields[name].description if name in Settings.model_fields else ""
    value = _without_password(str(error["input"])) if name.endswith("_url") else error["input"]
    return f"{PREFIX}{name.upper()}={value!s}: {error['msg']} ({allowed})"


def _without_password(url: str) -> str:
    return re.sub(r"^(.*?//)?.*@", r"\1***@", url, flags=re.DOTALL)
