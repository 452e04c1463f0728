"""docker-compose.yml says what the code says. No Docker engine is needed: the file is read, and held against what it names."""

import re
import shlex
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import yaml
from pymongo.uri_parser import parse_uri
from redis import Redis
from typer.core import TyperGroup
from typer.main import get_command

from chatlab.cli import app as command_line
from chatlab.local.engines import open_engines
from chatlab.settings import PREFIX, Settings, load_settings
from chatlab.web.app import create_app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = cast("dict[str, dict[str, Any]]", yaml.safe_load(TEXT)["services"])
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = cast("str", SERVICES["service"]["build"]["dockerfile_inline"])


def given_settings(service: str) -> dict[str, str]:
    """`mongo_url` for CHATLAB_MONGO_URL, with its value."""
    environment = cast("dict[str, str]", SERVICES[service]["environment"])
    return {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()}


def words(service: str, flag: str) -> str:
    """What follows a flag in the service's command."""
    command = cast("list[str]", SERVICES[service]["command"])
    return command[command.index(flag) + 1]


@pytest.mark.parametrize("service", OURS)
def test_each_variable_is_a_setting_with_a_good_value(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable is misspelt, and the service reads every value as it is meant."""
    environment = cast("dict[str, str]", SERVICES[service]["environment"])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert [name for name in environment if not name.startswith(PREFIX)] == []
    assert given_settings(service).keys() <= Settings.model_fields.keys()
    assert {name: str(getattr(settings, name)).replace("True", "true") for name in given_settings(service)} == given_settings(service)


@pytest.mark.parametrize("service", OURS)
def test_the_engines_are_those_of_this_file(service: str) -> None:
    """The URLs name the services beside it, the replica set that MongoDB is told to be, and the ports their images listen on."""
    given = given_settings(service)
    mongo, redis = parse_uri(given["mongo_url"]), urlsplit(given["redis_url"])
    assert (mongo["nodelist"], mongo["options"]["replicaSet"]) == ([("mongo", 27017)], words("mongo", "--replSet"))
    assert (redis.hostname, redis.port) == ("redis", 6379)
    assert set(SERVICES[service]["depends_on"]) == {"mongo", "redis"}
    assert all(it["condition"] == "service_healthy" and "healthcheck" in SERVICES[on] for on, it in SERVICES[service]["depends_on"].items())


def test_redis_is_told_what_the_private_one_is_told(tmp_path: Path) -> None:
    """Nothing on disk, what ends soonest goes first, expiries are announced: the same with Docker and without."""
    flags = ("maxmemory", "maxmemory-policy", "save", "appendonly", "notify-keyspace-events")
    with open_engines(load_settings(data_dir=tmp_path)) as engines, Redis.from_url(engines.redis.url, decode_responses=True) as redis:
        private = {flag: redis.config_get(flag)[flag] for flag in flags}
        redis.config_set("notify-keyspace-events", words("redis", "--notify-keyspace-events"))
        redis.config_set("maxmemory", words("redis", "--maxmemory"))
        spelt = {flag: redis.config_get(flag)[flag] for flag in ("maxmemory", "notify-keyspace-events")}
    assert private == {flag: words("redis", f"--{flag}") for flag in flags} | spelt


def test_the_replica_set_is_made_as_the_url_expects_it() -> None:
    """The health check initiates the set under the name of --replSet, with the member's name that clients are led to."""
    script = SERVICES["mongo"]["healthcheck"]["test"][-1]
    assert re.findall(r'_id: "(\w+)"', script) == [words("mongo", "--replSet")]
    assert re.findall(r'host: "([^"]+)"', script) == ["mongo:27017"]
    assert "isWritablePrimary" in script


def test_the_command_is_one_of_the_command_line() -> None:
    """`chatlab serve` exists, with the options that are given to it."""
    program, name, *options = cast("list[str]", SERVICES["service"]["command"])
    commands = cast("TyperGroup", get_command(command_line)).commands
    assert program == "chatlab"
    assert commands[name].make_context(name, options).command.name == "serve"


def test_the_health_check_asks_a_route_of_the_service() -> None:
    """The path exists, and the port is the one that the service is told to listen on."""
    port, path = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", SERVICES["service"]["healthcheck"]["test"][-1])[0]
    routes = create_app(load_settings(**given_settings("service"))).routes
    assert path in {getattr(route, "path", None) for route in routes}
    assert port == given_settings("service")["port"]


@pytest.mark.parametrize("service", SERVICES)
def test_only_our_doors_are_published_and_only_to_this_machine(service: str) -> None:
    """MongoDB and Redis are reachable from the other containers alone; what we publish, on the loopback address and its own port."""
    published = cast("list[str]", SERVICES[service].get("ports", []))
    inside = {"service": given_settings("service")["port"], "lab": "8888"}.get(service)
    assert published == ([f"127.0.0.1:{inside}:{inside}"] if inside else [])


def test_the_notebooks_have_jupyterlab_behind_a_profile() -> None:
    """`docker compose up` alone starts no JupyterLab; the profile's one listens where it is published, and keeps its token."""
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["lab"]
    command = " ".join(SERVICES["lab"]["command"])
    assert "--ip=0.0.0.0 --port=8888" in command
    assert "token" not in command


def test_the_image_is_made_of_files_that_exist() -> None:
    """What the Dockerfile copies is in the repository, and each lock it installs from is among it."""
    copied = [word for line in DOCKERFILE.splitlines() if line.startswith("COPY") for word in shlex.split(line)[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {service["build"]["args"]["LOCK"] for service in OURS.values()} <= set(copied)
    assert "--require-hashes -r $$LOCK" in DOCKERFILE


def test_the_image_runs_as_nobody_special() -> None:
    """The last user of the image is not root."""
    users = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert users[-1] != "root"


def test_no_dollar_is_left_for_compose_to_replace() -> None:
    """Compose replaces $NAME before anyone else sees it, so each dollar that is meant is written twice."""
    assert re.sub(r"\$\$", "", TEXT).count("$") == 0


@pytest.mark.parametrize("service", ["mongo", "redis"])
def test_the_engines_are_pinned(service: str) -> None:
    """The image of an engine has a full version, none that is known to be unsafe, and is the same tomorrow."""
    name, _, tag = SERVICES[service]["image"].partition(":")
    oldest = {"mongo": (8, 0, 17), "redis": (8, 2, 2)}
    assert tuple(map(int, tag.split("."))) >= oldest[name]
