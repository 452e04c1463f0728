"""Settings: wrong values are explained, and `--help` lists all settings."""

import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from waiting import LIMIT_S

from chatlab.demo.servers import DemoServers
from chatlab.local.engines import Engine
from chatlab.server_urls import HIDDEN
from chatlab.settings import PREFIX, Settings, SettingsError, load_settings

WRONG = {
    "MONGO_URL": "http://somewhere",
    "REDIS_URL": "localhost:6379",
    "DATABASE": "a/b",
    "CACHE_TTL": "0",
    "SWEEP_INTERVAL": "soon",
    "SWEEPER": "perhaps",
    "CACHE_MODE": "fast",
    "WINDOW_SIZE": "1.5",
    "KEY_PREFIX": "a b*",
    "FLOW": "maybe",
    "PORT": "65536",
    "ALLOWED_HOSTS": "http://chat.example.org",
    "ALLOWED_ORIGINS": "chat.example.org",
    "DOCS": "no docs",
    "METRICS": "2",
    "WORKERS": "0",
    "RATE_LIMIT": "-1",
    "USER_SOCKETS": "0",
    "LOGIN_LIMIT": "-1",
    "LOGIN_ADDRESS_LIMIT": "many",
    "SIGNUP_LIMIT": "-1",
    "HASH_QUEUE": "0",
    "TRUSTED_PROXIES": "10.0.0.0/8,0.0.0.0/0",
    "SESSION_DAYS": "nan",
    "MAX_BODY": "12",
    "CONNECT_TIMEOUT": "0",
    "HEAD_TIMEOUT": "0",
    "KEEP_ALIVE_TIMEOUT": "0",
    "STALLED_TIMEOUT": "inf",
    "MAX_CONNECTIONS": "31",
    "CONNECTIONS_PER_ADDRESS": "0",
    "DRAIN_SECONDS": "-1",
    "SHUTDOWN_TIMEOUT": "-5",
    "LOG_LEVEL": "LOUD",
}


def chatlab(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run the `chatlab` command with these settings and no others."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {PREFIX + name: value for name, value in settings.items()} | {
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "chatlab", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_names_the_variable_the_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The error is one line with all three."""
    monkeypatch.setenv(PREFIX + name, WRONG[name])
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    (line,) = str(wrong.value).splitlines()
    shown = HIDDEN if name.endswith("_URL") else WRONG[name]
    assert line.startswith(f"{PREFIX}{name}={shown}: ")
    assert line.endswith(f"({Settings.model_fields[name.lower()].description})")


def test_serve_does_not_start_on_wrong_values() -> None:
    """The command exits with status 2 and one line per wrong value, from wherever it comes."""
    ended = chatlab("serve", CACHE_TTL="-1", PORT="x", CACHE_MODE="[red]")
    assert ended.returncode == 2
    for part in (
        f"{PREFIX}CACHE_TTL=-1",
        f"{PREFIX}PORT=x",
        f"{PREFIX}CACHE_MODE=[red]",
        "'window', 'drawn' or 'off'",
    ):
        assert part in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 4
    ended = chatlab("serve", "--port", "70000")
    assert (ended.returncode, f"{PREFIX}PORT=70000" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:geheim@h", "geheim", "mongodb:/user:sec/geheim@@h", "x://a:geheim\n@h"),
        *("mongodb://h:geheim", "mongodb://u:12/geheim@h", "mongodb://u:ge%heim@h"),
        *("mongodb://h/?geheim=1", "mongodb://h/?tls=geheim", "mongodb://u:a?geheim@h"),
        "mongodb://[geheim]/",
    ],
)
def test_no_text_of_a_wrong_url_is_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Any part of it may be a part of a password. Neither command nor code shows it."""
    monkeypatch.setenv(f"{PREFIX}MONGO_URL", url)
    monkeypatch.setenv(f"{PREFIX}REDIS_URL", url.replace("mongodb", "redis").replace("%", "/"))
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    with pytest.raises(ValidationError) as invalid:
        Settings(mongo_url=url)
    shown = str(wrong.value)
    assert [line.partition("=")[0] for line in shown.splitlines()] == [
        f"{PREFIX}MONGO_URL",
        f"{PREFIX}REDIS_URL",
    ]
    assert "heim" not in shown + str(invalid.value)


def test_a_traceback_shows_no_password() -> None:
    """An error that no one expected is printed without the passwords of URLs."""
    script = """
import sys
from chatlab import cli
def fail():
    raise ValueError("cannot use mongodb://user:geheim@h/?tls=true&tlsCertificateKeyFilePassword=geheim")
cli.app = fail
cli.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 1
    assert "ValueError: cannot use mongodb://***@h/?tls=true" in ended.stderr
    assert "geheim" not in ended.stderr.rpartition("ValueError")[2]


def test_values_are_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values from files often end in a newline. One that is only a newline counts as unset."""
    given: dict[str, Any] = {
        "MONGO_URL": "mongodb://h",
        "REDIS_URL": "redis://h",
        "DATABASE": "shop",
        "CACHE_TTL": "2",
        "FLOW": "1",
        "CACHE_MODE": "drawn",
        "KEY_PREFIX": "a:",
        "HOST": "::1",
        "PORT": "1",
        "DATA_DIR": "/tmp/data",
        "TRUSTED_PROXIES": "10.0.0.1",
    }
    for name, value in given.items():
        monkeypatch.setenv(PREFIX + name, f" {value}\r\n")
    monkeypatch.setenv(f"{PREFIX}LOG_LEVEL", "\n")
    monkeypatch.setenv(f"{PREFIX}NO_SUCH_SETTING", "\n")
    assert load_settings() == Settings(**{name.lower(): value for name, value in given.items()})


KUBERNETES = {
    "SERVICE_HOST": "10.96.3.7",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "PORT": "tcp://10.96.3.7:8000",
    "PORT_8000_TCP": "tcp://10.96.3.7:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.96.3.7",
    "REDIS_MASTER_SERVICE_HOST": "fd00::7",
    "REDIS_MASTER_SERVICE_PORT_TCP_REDIS": "6379",
    "REDIS_MASTER_PORT": "tcp://[fd00::7]:6379",
    "REDIS_MASTER_PORT_53_UDP": "udp://[fd00::7]:53",
    "REDIS_MASTER_PORT_53_UDP_PROTO": "udp",
}


def test_the_variables_of_kubernetes_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes describes each service of the namespace, so also `chatlab` and `chatlab-redis-master`."""
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(PREFIX + name, value)
    assert load_settings().port == 8000
    monkeypatch.setenv(f"{PREFIX}PORT", "9000")
    assert load_settings().port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVICE_PORT", "http"), ("SERVICE", "10.0.0.1"), ("SERVICE_HOST", "h"), ("PORTS", "8000")],
)
def test_a_variable_like_those_of_kubernetes_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Only what Kubernetes really sets is ignored: the names and the form of the values."""
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError, match="no such setting"):
        load_settings()


def test_the_database_of_the_url_is_not_ignored() -> None:
    """A URL with another database is refused, until CHATLAB_DATABASE says which one is meant."""
    url = "mongodb://user:geheim@h/shop?replicaSet=rs0"
    with pytest.raises(SettingsError) as wrong:
        load_settings(mongo_url=url)
    assert f"set {PREFIX}DATABASE" in str(wrong.value)
    assert "geheim" not in str(wrong.value)
    for database in ("shop", "chatlab"):
        assert load_settings(mongo_url=url, database=database).mongo_url == url
    for same in ("mongodb://h/chatlab", "mongodb://user:p@h/admin", "mongodb://h/"):
        assert load_settings(mongo_url=same).database == "chatlab"


def test_passwords_are_not_in_representations() -> None:
    """Neither the settings nor a server of the service show a URL."""
    urls = {"mongo_url": "mongodb://u:geheim@h", "redis_url": "redis://:geheim@h"}
    engine = Engine("Redis", urls["redis_url"], "8.2.1", False, None, None)
    servers = DemoServers("", urls["mongo_url"], urls["redis_url"], "demo")
    assert "geheim" not in f"{load_settings(**urls)!r} {engine!r} {servers!r}"


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown `CHATLAB_` variable is reported with the most similar setting."""
    monkeypatch.setenv(f"{PREFIX}CACHE_TLT", "1")
    monkeypatch.setenv(f"{PREFIX}QQQ", "1")
    monkeypatch.setenv(f"{PREFIX}EMPTY", "")
    monkeypatch.setenv(f"{PREFIX}PORT", "x")
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    first, second, third = str(wrong.value).splitlines()
    assert first == f"{PREFIX}CACHE_TLT: there is no such setting; did you mean {PREFIX}CACHE_TTL?"
    assert second == f"{PREFIX}QQQ: there is no such setting"
    assert third.startswith(f"{PREFIX}PORT=x: ")
    monkeypatch.delenv(f"{PREFIX}PORT")
    with pytest.raises(SettingsError, match="no such setting"):
        load_settings()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.9", ".."])
def test_a_wrong_host_is_named(host: str) -> None:
    """If the address does not belong to this machine, the fix is another host, not another port."""
    ended = chatlab("serve", HOST=host, PORT="0")
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert f"{PREFIX}HOST" in ended.stderr
    assert "--port" not in ended.stderr


def test_a_taken_port_is_named() -> None:
    """If the port is in use, the fix is another port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = chatlab("serve", PORT=str(taken.getsockname()[1]))
    assert (ended.returncode, "--port 0" in ended.stderr) == (1, True)


CTRL_C_AT_AN_IMPORT = """
import os, signal, sys
module = sys.argv.pop(1)
def press_ctrl_c(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(press_ctrl_c)
from chatlab.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module", ["chatlab.cli", "typer", "pydantic", "chatlab.settings", "chatlab.run.doctor"]
)
def test_ctrl_c_during_an_import_exits_cleanly(module: str) -> None:
    """The command exits with status 130 and without a traceback."""
    command = [sys.executable, "-c", CTRL_C_AT_AN_IMPORT, module, "doctor"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


def test_every_setting_is_in_the_help() -> None:
    """`chatlab serve --help` lists each variable and its description."""
    shown = " ".join(chatlab("serve", "--help").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"{PREFIX}{name.upper()}" in shown
        assert str(field.description) in shown, name


def test_the_defaults_are_those_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """They apply when variables are unset or empty."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}REDIS_URL", "")
    found = load_settings()
    assert (found.mongo_url, found.redis_url, found.database, found.key_prefix) == (
        None,
        None,
        "chatlab",
        "",
    )
    assert (found.cache_ttl, found.sweep_interval, found.cache_mode.value, found.flow) == (
        5,
        1,
        "window",
        False,
    )
    assert (found.host, found.port, found.workers, found.max_body) == ("127.0.0.1", 8000, 1, 65_536)
    assert found.ttl_ms == 5000
    assert found.rate_limit > 10  # more than a person needs
