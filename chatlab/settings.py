"""The settings: name, default, allowed values and meaning of each.

No other module reads `CHATLAB_` variables. `chatlab serve --help` and docs/settings.md show the
descriptions below.
"""

import difflib
import ipaddress
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from platformdirs import user_data_path
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from chatlab.server_urls import HIDDEN, check_mongo_url, check_redis_url, mongo_database

PREFIX = "CHATLAB_"
# Kubernetes and Docker set such variables in each container, for every service whose name begins
# with "chatlab".
_INJECTED = re.compile(
    rf"""{PREFIX}(\w+_)?(
        SERVICE_HOST=[\da-f.:]+ | SERVICE_PORT(_\w+)?=\d+
        | PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://\S+
        | PORT_\d+_(TCP|UDP|SCTP)_(PROTO=(tcp|udp|sctp) | PORT=\d+ | ADDR=[\da-f.:]+)
    )""",
    re.VERBOSE | re.IGNORECASE,
)
CLOSE_LIMIT_S = 4  # to close all connections, after `shutdown_timeout` seconds for open requests


class CacheMode(StrEnum):
    """How a conversation is read. With `off`, no message is written to Redis either."""

    WINDOW = "window"
    DRAWN = "drawn"
    OFF = "off"


def _networks(text: str) -> str:
    """Raise ValueError for text that is not a list of addresses and networks, or that trusts everyone."""
    for part in filter(None, text.split(",")):
        if ipaddress.ip_network(part.strip()).prefixlen == 0:
            raise ValueError("every client could claim any address")
    return text


CacheTtl = Annotated[
    float,
    Field(
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
        description="TTL of message entries and conversation windows, in seconds",
    ),
]


class Settings(BaseSettings):
    """All settings. They are read from the environment once, when a command starts."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # it may be a password
    )

    mongo_url: Annotated[
        str | None,
        AfterValidator(lambda url: url and check_mongo_url(url)),
        Field(description="URL of MongoDB; if unset, a private MongoDB is started", repr=False),
    ] = None
    redis_url: Annotated[
        str | None,
        AfterValidator(lambda url: url and check_redis_url(url)),
        Field(
            description="URL of Redis, of its Sentinels or of a Redis Cluster; if unset, a private Redis is started",
            repr=False,
        ),
    ] = None
    redis_timeout: Annotated[
        float,
        Field(
            ge=0.05,
            le=3_600,
            allow_inf_nan=False,
            description="seconds that a request waits for Redis; must be the same in all processes, and at least four times as long as a round trip to Redis",
        ),
    ] = 0.2
    mongod: Annotated[
        Path | None,
        Field(
            description="mongod program to start; if unset, found on the PATH or in a package",
        ),
    ] = None
    redis_server: Annotated[
        Path | None,
        Field(
            description="redis-server or valkey-server program; if unset, found like mongod",
        ),
    ] = None
    database: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9_-]{1,38}$", description="name of the MongoDB database"),
    ] = "chatlab"
    data_dir: Annotated[
        Path,
        Field(description="folder for the data of the private servers"),
    ] = user_data_path("chatlab")
    cache_ttl: CacheTtl = 5
    sweep_interval: Annotated[
        float,
        Field(ge=0.05, le=3_600, allow_inf_nan=False, description="seconds between two sweeps"),
    ] = 1
    sweeper: Annotated[
        bool,
        Field(
            description="run the sweeper inside the service, in one process at a time; if off, run `chatlab sweep` separately",
        ),
    ] = True
    cache_mode: Annotated[
        CacheMode,
        Field(
            description="window: read from Redis if possible; drawn: from MongoDB, as in the diagram; off: no cache",
        ),
    ] = CacheMode.WINDOW
    stale_reads: Annotated[
        bool,
        Field(
            description="while MongoDB has no primary, read conversations from its secondaries, with `X-Cache: stale`; they may lack the newest messages",
        ),
    ] = False
    window_size: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="maximum messages in a conversation window; a fill adds at most as many KB",
        ),
    ] = 500
    key_prefix: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_.:-]{0,64}$",
            description="prefix of all Redis keys and channels",
        ),
    ] = ""
    flow: Annotated[
        bool,
        Field(
            description="publish the stages each message passes, on the Socket.IO namespace /flow of each process",
        ),
    ] = False
    lab_key: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_-]{8,64}$",
            description="key that opens the page /lab for the presenter; if unset, a random one, which private servers keep in their data folder",
            repr=False,
        ),
    ] = None
    host: Annotated[
        str,
        Field(min_length=1, description="address the service listens on"),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(ge=0, le=65_535, description="port the service listens on; 0 takes a free one"),
    ] = 8000
    allowed_hosts: Annotated[
        str,
        Field(
            pattern=r"^ *((\*|(\*\.)?[A-Za-z0-9._-]+) *(, *|$))*$",
            description="names under which browsers may reach the service, besides localhost, IP addresses and CHATLAB_HOST, such as `chat.example.org, *.lan`; *: all names",
        ),
    ] = ""
    allowed_origins: Annotated[
        str,
        Field(
            pattern=r"^ *(https?://[A-Za-z0-9._:\[\]-]+ *(, *|$))*$",
            description="origins whose pages may change something, besides that of the service, such as `https://chat.example.org`",
        ),
    ] = ""
    docs: Annotated[
        bool,
        Field(description="serve the description of the API, at /docs and /openapi.json"),
    ] = True
    metrics: Annotated[
        bool,
        Field(description="serve the Prometheus metrics, at /metrics"),
    ] = True
    workers: Annotated[
        int,
        Field(ge=1, le=64, description="number of processes that serve requests"),
    ] = 1
    rate_limit: Annotated[
        float,
        Field(
            ge=0,
            le=1_000_000,
            allow_inf_nan=False,
            description="requests and events per second for each user in each process, with bursts of twice as many; 0: no limit",
        ),
    ] = 100
    user_sockets: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="sockets that one user may have open in each process",
        ),
    ] = 50
    login_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="failed log-ins per minute for each name; devices and addresses that have logged in to it before are counted apart; 0: no limit",
        ),
    ] = 10
    login_address_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="failed log-ins per minute from each address, for any names; 0: no limit",
        ),
    ] = 100
    signup_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="sign-ups per minute from each address; 0: no limit",
        ),
    ] = 80
    hash_queue: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="log-ins that may wait for the hash of their password in each process, and as many sign-ups; addresses share these places",
        ),
    ] = 256
    trusted_proxies: Annotated[
        str,
        AfterValidator(_networks),
        Field(
            description="addresses and networks of reverse proxies, separated by commas; the address of a client is taken from their X-Forwarded-For",
        ),
    ] = ""
    session_days: Annotated[
        float,
        Field(gt=0, le=3_650, description="days after which a session expires"),
    ] = 30
    max_body: Annotated[
        int,
        Field(
            ge=1_024,
            le=16_777_216,
            description="maximum bytes of a request body or a socket event",
        ),
    ] = 65_536
    connect_timeout: Annotated[
        float,
        Field(gt=0, le=3_600, description="seconds a socket may take to authenticate"),
    ] = 5
    head_timeout: Annotated[
        float,
        Field(gt=0, le=3_600, description="seconds the head of a request may take to arrive"),
    ] = 10
    keep_alive_timeout: Annotated[
        int,
        Field(
            gt=0,
            le=3_600,
            description="seconds a connection may wait for its next request; should be longer than a reverse proxy waits",
        ),
    ] = 75
    stalled_timeout: Annotated[
        float,
        Field(
            gt=0,
            le=3_600,
            description="seconds a client may leave events or a response unread, or stop sending a body",
        ),
    ] = 10
    max_connections: Annotated[
        int,
        Field(
            ge=32,
            le=1_000_000,
            description="maximum open connections of each process; fewer if it may open fewer files",
        ),
    ] = 10_000
    connections_per_address: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="maximum open connections without a valid token from one address; at most half of all",
        ),
    ] = 4_000
    drain_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="seconds the service still accepts connections after SIGTERM, while /readyz answers 503",
        ),
    ] = 0
    shutdown_timeout: Annotated[
        float,
        Field(
            gt=0,
            le=600,
            description="seconds the service waits for open requests when it stops",
        ),
    ] = 6
    log_level: Annotated[
        str,
        Field(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR"),
    ] = "INFO"
    log_format: Annotated[
        str,
        Field(
            pattern=r"^(text|json)$",
            description="text: lines for a terminal; json: one JSON object for each line",
        ),
    ] = "text"
    access_log: Annotated[
        bool,
        Field(description="log each HTTP request and each event of a socket, at level INFO"),
    ] = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment with `_environment`."""
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, InitSettingsSource(settings_cls, init_kwargs=_environment())

    @model_validator(mode="after")
    def _check_database(self) -> Self:  # noqa: N804 - called with an instance
        """Refuse a URL that names a database which the service would not use.

        With CHATLAB_DATABASE the URL may name the one that has the user, as `admin` often does.
        """
        named = mongo_database(self.mongo_url or "")
        if named not in (None, "admin", self.database) and "database" not in self.model_fields_set:
            raise ValueError(
                f"{PREFIX}MONGO_URL names the database {named}, but chatlab would use "
                f"{self.database}; set {PREFIX}DATABASE to one of the two"
            )
        return self

    @property
    def exit_limit_s(self) -> float:
        """Seconds after SIGTERM after which a process that still runs is killed. 10 by default."""
        return self.drain_seconds + self.shutdown_timeout + CLOSE_LIMIT_S

    @property
    def proxy_networks(self) -> list[str]:
        """The trusted proxies as networks.

        A socket that listens on IPv6 sees those with IPv4 as `::ffff:a.b.c.d`.
        """
        found = [
            ipaddress.ip_network(part.strip())
            for part in filter(None, self.trusted_proxies.split(","))
        ]
        mapped = [
            f"::ffff:{network.network_address}/{96 + network.prefixlen}"
            for network in found
            if network.version == 4
        ]
        return [*map(str, found), *mapped]

    @property
    def ttl_ms(self) -> int:
        """`cache_ttl` in milliseconds."""
        return round(self.cache_ttl * 1000)


class SettingsError(Exception):
    """The settings are wrong. The text has one line for each wrong variable."""


def load_settings(**given: object) -> Settings:
    """Return the settings of the environment, overridden by the `given` values that are not None.

    Raises SettingsError.
    """
    problems = _unknown_variables()
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**overrides)
    except ValidationError as failure:
        problems += [_describe(error) for error in failure.errors()]
        raise SettingsError("\n".join(problems)) from None
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _environment() -> dict[str, str]:
    """Return the `CHATLAB_` variables, by the name of the setting.

    Values from files often end in a newline, so they are trimmed. Empty ones count as unset, and
    those that Kubernetes sets are not ours.
    """
    given = {
        name.upper().removeprefix(PREFIX).lower(): value.strip()
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX) and not _INJECTED.fullmatch(f"{name}={value.strip()}")
    }
    return {name: value for name, value in given.items() if value}


def _unknown_variables() -> list[str]:
    """Complain about `CHATLAB_` variables that are not settings.

    pydantic ignores them, so a misspelt setting would silently keep its default.
    """
    unknown = sorted(_environment().keys() - Settings.model_fields.keys())
    return [f"{_variable(name)}: there is no such setting{_suggestion(name)}" for name in unknown]


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _suggestion(name: str) -> str:
    """Return a hint with the most similar name, or nothing."""
    similar = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {_variable(similar[0])}?" if similar else ""


def _describe(error: Any) -> str:
    """Return one line with the variable, its value and what is allowed.

    The value of a URL is not shown, because it may contain a password.
    """
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    name = str(error["loc"][0])
    allowed = Settings.model_fields[name].description if name in Settings.model_fields else ""
    value = HIDDEN if name.endswith("_url") else error["input"]
    return f"{_variable(name)}={value!s}: {message} ({allowed})"
