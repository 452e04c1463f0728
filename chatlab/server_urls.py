"""The URLs of MongoDB and Redis: the options that they may have, and what of them may be shown.

An option in a URL overrides what the service passes to the driver. So an option that would weaken
a promise of the service is removed, and one that the driver would misread or reject is refused.
docs/settings.md lists the decision for each option of both drivers.

No text of a URL that cannot be read is shown, because it may be a part of a password.
"""

import difflib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote, unquote_plus, urlsplit

HIDDEN = "***"
_UNREADABLE = (
    "it cannot be read as {form}; in a user name and a password, write the characters "
    ": / ? # [ ] @ % as %3A %2F %3F %23 %5B %5D %40 %25, and leave no spaces"
)
_MONGO_FORM = "mongodb://user:password@host:port/?option=value"
_REDIS_FORM = "redis://user:password@host:port/0?option=value"
_SENTINEL_FORM = "redis+sentinel://user:password@host:port,host:port/service/0?option=value"
_CLUSTER_FORM = "redis+cluster://user:password@host:port,host:port?option=value"
SENTINEL_PORT = 26379
REDIS_PORT = 6379


class Value(NamedTuple):
    """The values that an option may have: a pattern, and the same in words."""

    pattern: str
    words: str


OURS = Value("", "decided by the service")  # the option is removed
CODE = Value("", "an object of Python")  # no URL can contain it, so it is refused
TEXT = Value(r".+", "not empty")
BOOLEAN = Value(r"true|false", "true or false")
NUMBER = Value(r"\d{1,9}", "a whole number")
FILE = Value(r".+", "a file that this process may read")
FLAGS = Value(r"VERIFY_[A-Z0-9_]+(,VERIFY_[A-Z0-9_]+)*", "names such as VERIFY_X509_STRICT")

MONGO_OPTIONS: dict[str, Value] = {
    "appName": TEXT,
    "authMechanism": TEXT,
    "authMechanismProperties": TEXT,
    "authSource": TEXT,
    "compressors": TEXT,
    "connect": OURS,
    "connectTimeoutMS": OURS,
    "datetime_conversion": OURS,
    "directConnection": BOOLEAN,
    "driver": CODE,
    "enableOverloadRetargeting": BOOLEAN,
    "fsync": OURS,
    "heartbeatFrequencyMS": Value(r"[1-9]\d{3,4}|[5-9]\d\d", "500 to 99999"),
    "journal": OURS,
    "loadBalanced": BOOLEAN,
    "localThresholdMS": NUMBER,
    "maxAdaptiveRetries": NUMBER,
    "maxConnecting": OURS,
    "maxIdleTimeMS": NUMBER,
    # Long reads use up to 4 connections at the same time, and chatlab/web/descriptors.py keeps
    # file descriptors for 100.
    "maxPoolSize": Value(r"[1-9]\d|100", "10 to 100"),
    "maxStalenessSeconds": OURS,
    "minPoolSize": Value(r"\d|10", "0 to 10"),
    "readConcernLevel": OURS,
    "readPreference": OURS,
    "readPreferenceTags": OURS,
    "replicaSet": TEXT,
    "retryReads": BOOLEAN,
    "retryWrites": BOOLEAN,
    "serverMonitoringMode": Value(r"auto|poll|stream", "auto, poll or stream"),
    "serverSelectionTimeoutMS": OURS,
    "server_api": CODE,
    "socketTimeoutMS": OURS,
    "srvAllowedHostsSuffix": TEXT,
    "srvMaxHosts": NUMBER,
    "srvServiceName": TEXT,
    "ssl": BOOLEAN,
    "timeoutMS": OURS,
    "tls": BOOLEAN,
    "tlsAllowInvalidCertificates": BOOLEAN,
    "tlsAllowInvalidHostnames": BOOLEAN,
    "tlsCAFile": FILE,
    "tlsCRLFile": FILE,
    "tlsCertificateKeyFile": FILE,
    "tlsCertificateKeyFilePassword": TEXT,
    "tlsDisableOCSPEndpointCheck": BOOLEAN,
    "tlsInsecure": BOOLEAN,
    "tz_aware": OURS,
    "unicode_decode_error_handler": OURS,
    "uuidRepresentation": OURS,
    "w": OURS,
    "waitQueueMultiple": OURS,
    "waitQueueTimeoutMS": OURS,
    "wTimeoutMS": OURS,
    "zlibCompressionLevel": Value(r"-1|\d", "-1 to 9"),
}

_REDIS_BOOLEAN = Value(r"(?i:[01tfyn]|true|false|yes|no)", "true or false")
_REDIS_TLS_OPTIONS: dict[str, Value] = {
    "ssl_ca_certs": FILE,
    "ssl_ca_data": TEXT,
    "ssl_ca_path": TEXT,
    "ssl_cert_reqs": Value(r"none|optional|required", "none, optional or required"),
    "ssl_certfile": FILE,
    "ssl_check_hostname": _REDIS_BOOLEAN,
    "ssl_ciphers": TEXT,
    "ssl_exclude_verify_flags": FLAGS,
    "ssl_include_verify_flags": FLAGS,
    "ssl_keyfile": FILE,
    "ssl_min_version": Value(r"77[12]", "771 (TLS 1.2) or 772 (TLS 1.3)"),
    "ssl_password": TEXT,
}
REDIS_OPTIONS: dict[str, Value] = _REDIS_TLS_OPTIONS | {
    "client_name": Value(r"[!-~]+", "a name without spaces"),
    "connection_class": CODE,
    "credential_provider": CODE,
    "db": Value(r"\d{1,5}", "a whole number"),
    "decode_responses": OURS,
    "driver_info": CODE,
    "encoder_class": CODE,
    "encoding": OURS,
    "encoding_errors": OURS,
    "event_dispatcher": CODE,
    "health_check_interval": OURS,
    "himport_registry": CODE,
    "host": CODE,
    "legacy_responses": OURS,
    "lib_name": OURS,
    "lib_version": OURS,
    "maint_notifications_config": CODE,
    "maint_notifications_pool_handler": CODE,
    "maintenance_notification_hash": CODE,
    "maintenance_state": CODE,
    "max_connections": OURS,
    "oss_cluster_maint_notifications_handler": CODE,
    "orig_host_address": CODE,
    "orig_socket_connect_timeout": CODE,
    "orig_socket_timeout": CODE,
    "parser_class": CODE,
    "password": TEXT,
    "path": CODE,
    "port": CODE,
    "protocol": OURS,
    "redis_connect_func": CODE,
    "retry": CODE,
    "retry_on_error": OURS,
    "retry_on_timeout": OURS,
    "socket_connect_timeout": OURS,
    "socket_keepalive": _REDIS_BOOLEAN,
    "socket_keepalive_options": CODE,
    "socket_read_size": OURS,
    "socket_timeout": OURS,
    "socket_type": CODE,
    "timeout": OURS,
    "username": TEXT,
}
# What the Sentinels ask for. User and password of the URL are for Redis itself.
SENTINEL_OPTIONS = {"sentinel_password": TEXT, "sentinel_username": TEXT}

# A cluster has no numbers of databases, and redis-py does not accept the others for one.
NOT_OF_CLUSTERS = {"db", "ssl_ca_path", "ssl_password"}
CLUSTER_OPTIONS = {name: REDIS_OPTIONS[name] for name in REDIS_OPTIONS.keys() - NOT_OF_CLUSTERS}

# What `redact` hides: a user with a password before a host, and the options that are secret.
_USER = re.compile(r"(\b[a-zA-Z][\w+.-]*://)[^\s'\"]*@")
_SECRET_OPTIONS = re.compile(
    r"((?i:\b(?:ssl_|sentinel_|tlsCertificateKeyFile)?password|authMechanismProperties)=)['\"]?[^&\s'\"]+"
)

# Options with which the driver does not check the identity of the server.
_UNSAFE_TLS = re.compile(
    r"[?&](?i:(tlsInsecure|tlsAllowInvalidCertificates|tlsAllowInvalidHostnames)=true"
    r"|(ssl_cert_reqs)=none|(ssl_check_hostname)=(?:0|f|false|n|no))(?=&|$)"
)

_MONGO_URL = re.compile(
    r"mongodb(?:\+srv)?://(?:(?P<user>[^\s:@/?#\[\]]+(?::[^\s:@/?#\[\]]*)?)@)?(?P<hosts>[^\s@/?#]+)"
    r"(?:/(?P<database>[^\s/?#@]*))?(?:\?(?P<options>[^\s?#]*))?"
)
_REDIS_URL = re.compile(
    r"(?P<scheme>rediss?)://(?:(?P<user>[^\s/?#\[\]]*)@)?(?P<hosts>[^\s@/?#,]+)"
    r"(?:/(?P<database>\d{0,5}))?(?:\?(?P<options>[^\s#]*))?"
)
_UNIX_URL = re.compile(
    r"(?P<scheme>unix)://(?:(?P<user>[^\s/?#\[\]]*)@)?(?P<path>/[^\s?#]+)"
    r"(?:\?(?P<options>[^\s#]*))?"
)
_SENTINEL_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<user>[^\s/?#\[\]]*)@)?(?P<hosts>[^\s@/?#]+)"
    r"/(?P<service>[^\s@/?#]+)(?:/(?P<database>\d{0,5}))?(?:\?(?P<options>[^\s#]*))?"
)
_CLUSTER_URL = re.compile(
    r"(?P<scheme>rediss?)\+cluster://(?:(?P<user>[^\s/?#\[\]]*)@)?(?P<hosts>[^\s@/?#]+)"
    r"/?(?:\?(?P<options>[^\s#]*))?"
)
_REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_PLACE = re.compile(r"([\w.%~-]+|\[[\da-fA-F:.%]+\])(:(?P<port>\d{1,5}))?")


def check_mongo_url(url: str) -> str:
    """Return the URL without the options that the service decides itself.

    Raises ValueError. Its sentence contains no text of the URL but the names of known options.
    """
    _check_scheme(url, "mongodb", "mongodb+srv")
    found = _match(_MONGO_URL, url)
    if not found or re.search(r"%(?![\da-fA-F]{2})", found["user"] or ""):
        raise ValueError(_UNREADABLE.format(form=_MONGO_FORM))
    return _without_ours(url, MONGO_OPTIONS, ignore_case=True)


def check_redis_url(url: str) -> str:
    """Return the URL without the options that the service decides itself. See `check_mongo_url`."""
    _check_scheme(url, *_REDIS_SCHEMES)
    pattern, form, known = _REDIS_URL, _REDIS_FORM, REDIS_OPTIONS
    if url.startswith("unix:"):
        pattern = _UNIX_URL
    elif "+sentinel://" in url:
        pattern, form, known = _SENTINEL_URL, _SENTINEL_FORM, REDIS_OPTIONS | SENTINEL_OPTIONS
    elif "+cluster://" in url:
        pattern, form, known = _CLUSTER_URL, _CLUSTER_FORM, CLUSTER_OPTIONS
    found = _match(pattern, url)
    if not found or not all(map(_is_readable, _with_each_host(url, found))):
        raise ValueError(_UNREADABLE.format(form=form))
    checked, given = _without_ours(url, known), {name for name, _ in _options(url)}
    if found["scheme"] != "rediss" and (tls := sorted(given & _REDIS_TLS_OPTIONS.keys())):
        raise ValueError(f"the option {tls[0]} needs TLS, so the URL must begin with rediss")
    if found["scheme"] == "unix" and "socket_keepalive" in given:
        raise ValueError("the option socket_keepalive needs a host, not a unix socket")
    if "db" in given and found.groupdict().get("database"):
        raise ValueError("it has two numbers of a database, one of them in the option db")
    return checked


class SentinelUrl(NamedTuple):
    """The parts of a URL that names Sentinels.

    `redis_url` has everything that a connection to the primary needs, but its address.
    """

    places: list[tuple[str, int]]  # of the Sentinels
    service: str
    user: dict[str, str]  # for the Sentinels
    redis_url: str

    @classmethod
    def of(cls, url: str) -> "SentinelUrl | None":
        """Return the parts of a checked URL, or None if it names a Redis itself."""
        found = _SENTINEL_URL.fullmatch(url)
        if found is None:
            return None
        options = [text for text in _texts(url) if not text.startswith("sentinel_")]
        user = f"{found['user']}@" if found["user"] else ""
        rest = f"{found['database'] or 0}?{'&'.join(options)}"
        return cls(
            _places(found["hosts"], SENTINEL_PORT),
            unquote(found["service"]),
            {
                name.removeprefix("sentinel_"): value
                for name, value in _options(url)
                if name in SENTINEL_OPTIONS
            },
            f"{found['scheme']}://{user}primary/{rest}",
        )


class ClusterUrl(NamedTuple):
    """The parts of a URL that names nodes of a Redis Cluster."""

    places: list[tuple[str, int]]  # of some nodes, which know the others
    scheme: str
    user: str
    options: str

    @classmethod
    def of(cls, url: str) -> "ClusterUrl | None":
        """Return the parts of a checked URL, or None if it names no cluster."""
        found = _CLUSTER_URL.fullmatch(url)
        if found is None:
            return None
        return cls(
            _places(found["hosts"], REDIS_PORT),
            found["scheme"],
            f"{found['user']}@" if found["user"] else "",
            found["options"] or "",
        )

    def of_node(self, host: str, port: int) -> str:
        """Return the URL of one node."""
        place = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.user}{place}:{port}/0?{self.options}"


def _places(hosts: str, default_port: int) -> list[tuple[str, int]]:
    places = [place for place in map(_PLACE.fullmatch, hosts.split(",")) if place]
    return [(place[1].strip("[]"), int(place["port"] or default_port)) for place in places]


def option_names(url: str) -> set[str]:
    """Return the names of the options in a URL, in lower case."""
    return {name.lower() for name, _ in _options(url)}


def mongo_database(url: str) -> str | None:
    """Return the database that the URL of MongoDB names after the hosts."""
    found = _MONGO_URL.fullmatch(url)
    return unquote(found["database"]) if found and found["database"] else None


def unsafe_tls(url: str) -> str | None:
    """Return the option of the URL that switches off a check of the server's certificate."""
    found = _UNSAFE_TLS.search(url)
    return found and next(filter(None, found.groups()))


def redact(text: str) -> str:
    """Return the text with the passwords of all URLs hidden."""
    return _SECRET_OPTIONS.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def _check_scheme(url: str, *schemes: str) -> None:
    begins = [f"{scheme}://" for scheme in schemes]
    if not url.startswith(tuple(begins)):
        raise ValueError(f"it must begin with {' or '.join(begins)}")


def _match(pattern: re.Pattern[str], url: str) -> re.Match[str] | None:
    """Return the parts of a URL, or None if it is ambiguous or not a URL of this form.

    An @ among the options, without a user before the hosts, is the end of a password that contains
    a question mark.
    """
    found = pattern.fullmatch(url)
    if not found or (not found["user"] and "@" in (found["options"] or "")):
        return None
    places = (found.groupdict().get("hosts") or "localhost").split(",")
    ports = [int(place["port"] or 1) for place in map(_PLACE.fullmatch, places) if place]
    are_hosts = len(ports) == len(places) and all(0 < port < 65_536 for port in ports)
    return found if are_hosts else None


def _with_each_host(url: str, found: re.Match[str]) -> Iterator[str]:
    """Yield the URL with only one of its hosts, for each of them. redis-py reads it so."""
    if "hosts" not in found.re.groupindex:
        yield url
        return
    for host in found["hosts"].split(","):
        yield url[: found.start("hosts")] + host + url[found.end("hosts") :]


def _is_readable(url: str) -> bool:
    """Return whether the standard library can read the URL. redis-py uses it."""
    try:
        urlsplit(url)
    except ValueError:  # its text repeats a part of the URL
        return False
    return True


def _texts(url: str) -> list[str]:
    return [text for text in url.partition("?")[2].split("&") if text]


def _options(url: str) -> list[tuple[str, str]]:
    """Return the name and the value of each option."""
    pairs = [option.partition("=") for option in _texts(url)]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def _without_ours(url: str, known: dict[str, Value], *, ignore_case: bool = False) -> str:
    """Return the URL without the options whose decision is OURS.

    Raises ValueError for an option that is refused or given twice, and for a wrong value.
    """
    texts, kept = _texts(url), dict[str, str]()
    names = {name.lower() if ignore_case else name: name for name in known}
    for number, (given, value) in enumerate(_options(url)):
        name = names.get(given.lower() if ignore_case else given)
        if name is None:
            raise ValueError(_describe_unknown(number + 1, given, known))
        if known[name] is OURS:
            continue
        if name in kept:
            raise ValueError(f"it has the option {name} twice")
        _check_value(name, value, known[name])
        kept[name] = texts[number]
    if len(kept) == len(texts):
        return url
    base = url.partition("?")[0]
    return f"{base}?{'&'.join(kept.values())}" if kept else base


def _describe_unknown(number: int, given: str, known: dict[str, Value]) -> str:
    """Describe an option without its name, which may be a part of a password."""
    allowed = [name for name, value in known.items() if value not in (OURS, CODE)]
    similar = difflib.get_close_matches(given, allowed, n=1)
    guess = f"; did you mean {similar[0]}?" if similar else ""
    return f"chatlab does not know the option number {number}{guess}"


def _check_value(name: str, value: str, allowed: Value) -> None:
    if allowed is CODE:
        raise ValueError(f"the option {name} cannot be used in a URL")
    is_allowed = re.fullmatch(allowed.pattern, value, re.DOTALL)
    if not is_allowed or (allowed is FILE and not os.access(value, os.R_OK)):
        raise ValueError(f"the value of the option {name} must be {allowed.words}")
