"""URLs of the servers: each option of both drivers has a decision, and no option weakens a promise."""

import inspect
import logging.config
import re
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
from documents import ROOT
from pymongo import MongoClient, common
from redis import Redis
from redis import connection as blocking
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import connection

from chatlab.connections.cluster import Cluster
from chatlab.connections.redis import connect, connect_blocking
from chatlab.run.console import log_config
from chatlab.server_urls import (
    CLUSTER_OPTIONS,
    CODE,
    FILE,
    FLAGS,
    MONGO_OPTIONS,
    NOT_OF_CLUSTERS,
    NUMBER,
    OURS,
    REDIS_OPTIONS,
    TEXT,
    ClusterUrl,
    Value,
    check_mongo_url,
    check_redis_url,
    redact,
    unsafe_tls,
)
from chatlab.settings import Settings

PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
GOOD = {  # a value of each option that needs a special one
    "authMechanism": "SCRAM-SHA-256",
    "authMechanismProperties": "SERVICE_NAME:other",
    "compressors": "zlib",
    "heartbeatFrequencyMS": "5000",
    "maxPoolSize": "10",
    "serverMonitoringMode": "poll",
    "ssl_cert_reqs": "required",
    "ssl_min_version": "771",
    "zlibCompressionLevel": "6",
}
ALLOWED_MONGO = [name for name, value in MONGO_OPTIONS.items() if value not in (OURS, CODE)]
ALLOWED_REDIS = [name for name, value in REDIS_OPTIONS.items() if value not in (OURS, CODE)]


def good_value(name: str, allowed: Value) -> str:
    """Return a value that an option may have."""
    kinds = {TEXT: "text", NUMBER: "3", FILE: __file__, FLAGS: "VERIFY_X509_STRICT"}
    return GOOD.get(name) or kinds.get(allowed) or ("true" if "true" in allowed.words else "1")


def options_of_redis_py() -> set[str]:
    """Return the names that redis-py passes from a URL to a connection."""
    classes = (
        connection.AbstractConnection,
        connection.Connection,
        connection.SSLConnection,
        connection.UnixDomainSocketConnection,
    )
    parameters = {name for one in classes for name in inspect.signature(one.__init__).parameters}
    return (parameters | connection.URL_QUERY_ARGUMENT_PARSERS.keys()) - {"self", "kwargs"}


def test_each_option_of_pymongo_has_a_decision() -> None:
    """A new version of pymongo may have a new option. Then decide whether a URL may have it."""
    ours = {name.lower() for name in MONGO_OPTIONS}
    assert ours == common.URI_OPTIONS_VALIDATOR_MAP.keys()


def test_each_option_of_redis_py_has_a_decision() -> None:
    """A new version of redis-py may have a new option. Then decide whether a URL may have it."""
    new = options_of_redis_py() - REDIS_OPTIONS.keys()
    assert new == set()


@pytest.mark.parametrize("name", [name for name, value in MONGO_OPTIONS.items() if value is OURS])
def test_an_option_that_the_service_decides_is_removed(name: str) -> None:
    """Such as the write concern, the read preference and the time limits."""
    url = f"mongodb://h/?{name.upper()}=1&tls=true&{name}=2"
    assert check_mongo_url(url) == "mongodb://h/?tls=true"


@pytest.mark.parametrize("name", [name for name, value in REDIS_OPTIONS.items() if value is OURS])
def test_an_option_that_the_service_decides_is_removed_for_redis(name: str) -> None:
    """Such as the time limits, retries and the decoding of replies."""
    assert check_redis_url(f"redis://h/1?{name}=1") == "redis://h/1"


@pytest.mark.parametrize("name", ALLOWED_MONGO)
def test_the_driver_accepts_each_allowed_option(name: str) -> None:
    """Pymongo only warns of a wrong value and ignores it, so `tls=yes` would mean no TLS."""
    text = f"{name}={good_value(name, MONGO_OPTIONS[name])}"
    assert check_mongo_url(f"mongodb://h/?{text}") == f"mongodb://h/?{text}"
    common.get_validated_options({name.lower(): good_value(name, MONGO_OPTIONS[name])}, warn=False)
    if MONGO_OPTIONS[name] is not TEXT:
        with pytest.raises(ValueError, match=f"value of the option {name} must be"):
            check_mongo_url(f"mongodb://h/?{name}=nonsense")


@pytest.mark.parametrize("name", ALLOWED_REDIS)
def test_redis_py_accepts_each_allowed_option(name: str) -> None:
    """A connection can be made with it, in both variants of the driver."""
    url = f"rediss://h?{name}={good_value(name, REDIS_OPTIONS[name])}"
    assert check_redis_url(url) == url
    AsyncRedis.from_url(url).connection_pool.make_connection()  # type: ignore[no-untyped-call]
    with Redis.from_url(url) as client:
        assert isinstance(client.connection_pool.make_connection(), blocking.SSLConnection)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://h?parser_class=x", "the option parser_class cannot be used in a URL"),
        ("redis://h?ssl_ca_certs=/dev/null", "the option ssl_ca_certs needs TLS"),
        ("redis://h?max_conections=3", "does not know the option number 1"),
        ("redis://h?db=1&db=2", "it has the option db twice"),
        ("redis://h/1?db=2", "two numbers of a database"),
        ("redis://h/shop", "cannot be read"),
        ("redis://h/1/2", "cannot be read"),
        ("redis://:6379/0", "cannot be read"),
        ("redis://a:1,b:2", "cannot be read"),
        ("redis://h:99999", "cannot be read"),
        ("redis://h?", ""),
        ("unix:///run/redis.sock?socket_keepalive=1", "needs a host"),
        ("unix://user:p@/run/redis.sock?db=1&client_name=chat", ""),
        ("rediss://:p:1@h", ""),
        ("redis://:a%b@@[::1]:6379/15", ""),
        ("redis+sentinel://u:p@a:1,b/chat/2?sentinel_password=x&client_name=y", ""),
        ("rediss+sentinel://a/chat?ssl_check_hostname=0", ""),
        ("redis+sentinel://a,b", "cannot be read as redis.sentinel"),
        ("redis+sentinel://a,b:x/chat", "cannot be read"),
        ("redis+sentinel://a/chat/shop", "cannot be read"),
        ("redis+sentinel://a/chat?ssl_ca_data=x", "needs TLS"),
        ("redis+sentinel://a/chat/1?db=2", "two numbers of a database"),
        ("redis://h?sentinel_password=x", "does not know the option number 1"),
    ],
)
def test_urls_of_redis(url: str, sentence: str) -> None:
    """What redis-py would misread is refused with a sentence."""
    if sentence:
        with pytest.raises(ValueError, match=sentence):
            check_redis_url(url)
    else:
        assert check_redis_url(url) == url


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mongodb://h/?replicaset=rs0&REPLICASET=rs1", "it has the option replicaSet twice"),
        ("mongodb://h/?replicasett=rs0", "the option number 1; did you mean replicaSet"),
        ("mongodb://h/?tls=true;ssl=true", "value of the option tls must be true or false"),
        ("mongodb://h/?tlsCAFile=/no/such/file", "must be a file that this process may read"),
        ("mongodb://h/?server_api=1", "the option server_api cannot be used in a URL"),
        ("mongodb://h/?document_class=dict", "does not know the option number 1"),
        ("mongodb://h:0/", "cannot be read"),
        ("mongodb:///shop", "cannot be read"),
        ("mongodb://u:p@h/a?appName=@a@&retryWrites=false&tls=true", ""),
        ("mongodb+srv://u:p%40@cluster.example.org/?retryWrites=true", ""),
        ("mongodb://a,b:27018,[::1]:27019,%2Frun%2Fmongod.sock/?replicaSet=rs0", ""),
    ],
)
def test_urls_of_mongodb(url: str, sentence: str) -> None:
    """What pymongo would misread, or ignore with a warning, is refused with a sentence."""
    if sentence:
        with pytest.raises(ValueError, match=sentence):
            check_mongo_url(url)
    else:
        assert check_mongo_url(url) == url


def test_a_checked_url_gives_the_driver_no_reason_to_warn() -> None:
    """A typical URL of a provider: what remains of it has only what the driver needs to connect."""
    url = "mongodb://u:p@h/?w=1&journal=false&tls=true&retryWrites=false&timeoutMS=9&wtimeoutMS=1"
    checked = check_mongo_url(url + "&readPreference=secondaryPreferred&readConcernLevel=available")
    assert checked == "mongodb://u:p@h/?tls=true&retryWrites=false"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MongoClient(checked, connect=False).close()


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("mongodb://h/?tlsInsecure=true", "tlsInsecure"),
        ("mongodb://h/?tls=true&tlsallowinvalidhostnames=true", "tlsallowinvalidhostnames"),
        ("rediss://h?ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("rediss://h?db=1&ssl_check_hostname=No", "ssl_check_hostname"),
        ("rediss://h?ssl_check_hostname=true", None),
        ("mongodb://h/?tlsInsecure=false", None),
    ],
)
def test_options_that_switch_off_a_check_are_found(url: str, option: str | None) -> None:
    """The greeting and the doctor warn about them."""
    assert unsafe_tls(url) == option


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see mongodb+srv://u:p%3A@h/x?a=b now", "see mongodb+srv://***@h/x?a=b now"),
        ("'redis://:p@x@h:1', ok", "'redis://***@h:1', ok"),
        ("?ssl_password=geheim&x=1", "?ssl_password=***&x=1"),
        (
            "redis+sentinel://u:p@h/s?sentinel_password=x",
            "redis+sentinel://***@h/s?sentinel_password=***",
        ),
        (
            "tlscertificatekeyfilepassword='geheim', tls=True",
            "tlscertificatekeyfilepassword=***', tls=True",
        ),
        ("http://127.0.0.1:8000/docs", "http://127.0.0.1:8000/docs"),
    ],
)
def test_passwords_of_urls_are_hidden(text: str, shown: str) -> None:
    """In any text, such as the message of a library."""
    assert redact(text) == shown


@pytest.mark.parametrize("connecting", [connect, connect_blocking])
def test_the_url_of_sentinels(connecting: Callable[[str, float], Any]) -> None:
    """Both variants of redis-py get each part of it, and try nothing twice."""
    url = (
        "rediss+sentinel://u:p%3A@a:1,b/chat/2?client_name=c&ssl_cert_reqs=none"
        "&sentinel_username=s&sentinel_password=%26"
    )
    pool = connecting(check_redis_url(url), 3.0).connection_pool
    options, manager = pool.connection_kwargs, pool.sentinel_manager
    assert [one.connection_pool.connection_kwargs["host"] for one in manager.sentinels] == [
        "a",
        "b",
    ]
    of_sentinel = [one.connection_pool.connection_kwargs for one in manager.sentinels]
    assert [one["port"] for one in of_sentinel] == [1, 26379]
    assert (pool.service_name, pool.is_master) == ("chat", True)
    wanted = {"username": "u", "password": "p:", "db": 2, "client_name": "c", "socket_timeout": 3.0}
    assert {name: options[name] for name in wanted} == wanted
    wanted = {"username": "s", "password": "&", "db": 0, "socket_timeout": 1.0}
    for one in of_sentinel:
        assert {name: one[name] for name in wanted} == wanted
    for one in (options, *of_sentinel):
        assert (one["ssl_cert_reqs"], one["retry"].get_retries()) == ("none", 0)
    assert "SSL" in type(pool.make_connection()).__name__


@pytest.mark.parametrize("tls", [False, True])
def test_the_url_of_a_cluster(*, tls: bool) -> None:
    """Each node gets user, password and options, and IPv6 addresses are understood."""
    scheme, option = ("rediss", "?ssl_cert_reqs=none") if tls else ("redis", "?client_name=c")
    url = check_redis_url(f"{scheme}+cluster://u:p%3A@a:1,[::1],c{option}")
    nodes = ClusterUrl.of(url)
    assert nodes
    assert nodes.places == [("a", 1), ("::1", 6379), ("c", 6379)]
    assert nodes.of_node("::1", 7) == f"{scheme}://u:p%3A@[::1]:7/0{option}"
    cluster = Cluster(url, 4.0)
    options = cluster.connect("::1:7").connection_pool.connection_kwargs
    wanted = {"username": "u", "password": "p:", "db": 0, "host": "::1", "port": 7}
    assert {name: options[name] for name in wanted} == wanted
    of_topology = cluster._redis.connection_kwargs
    assert (of_topology["username"], of_topology["password"]) == ("u", "p:")
    assert ("ssl_cert_reqs" in of_topology) == tls


@pytest.mark.parametrize("name", [name for name in ALLOWED_REDIS if name in CLUSTER_OPTIONS])
def test_redis_py_accepts_each_allowed_option_for_a_cluster(name: str) -> None:
    """A client of the topology and one of a node can be made with it."""
    text = f"{name}={good_value(name, REDIS_OPTIONS[name])}"
    Cluster(check_redis_url(f"rediss+cluster://h?{text}"), 1).connect("h:1")


@pytest.mark.parametrize("name", sorted(NOT_OF_CLUSTERS))
def test_a_cluster_does_not_have_every_option(name: str) -> None:
    """Such as numbers of databases."""
    with pytest.raises(ValueError, match="does not know the option number 1"):
        check_redis_url(f"rediss+cluster://h?{name}=1")


def test_the_settings_page_lists_the_options() -> None:
    """Each option is in the row of its decision."""
    for title, options in (("MongoDB", MONGO_OPTIONS), ("Redis", REDIS_OPTIONS)):
        for decision, wanted in (
            ("allowed", [name for name, value in options.items() if value not in (OURS, CODE)]),
            ("ignored", [name for name, value in options.items() if value is OURS]),
        ):
            row = re.search(rf"^\| {title} \| {decision} \| (.*) \|$", PAGE, re.MULTILINE)
            assert row, (title, decision)
            assert re.findall(r"`(\w+)`", row[1]) == sorted(wanted, key=str.lower)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_shows_no_password(log_format: Literal["text", "json"]) -> None:
    """The formatters of the service hide it, in the message and in the traceback of a library."""
    url = "mongodb://user:geheim@h/"
    error = ValueError(f"cannot use {url}")
    record = logging.LogRecord(
        "x", logging.ERROR, "x.py", 1, "at %s", (url,), (ValueError, error, None)
    )
    configurator = logging.config.DictConfigurator(log_config(Settings(log_format=log_format)))
    shown = configurator.configure_formatter(configurator.config["formatters"][log_format]).format(
        record
    )
    assert shown.count("mongodb://***@h/") == 2
    assert "geheim" not in shown
