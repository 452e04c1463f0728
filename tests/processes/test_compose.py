"""docker-compose.yml agrees with the code. The tests only read the file, so they need no Docker."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import yaml
from pymongo.uri_parser import parse_uri
from redis import Redis
from typer.core import TyperGroup
from typer.main import get_command
from waiting import LIMIT_S

from chatlab.cli import app as command_line
from chatlab.local.engines import open_engines
from chatlab.local.versions import old_version
from chatlab.settings import PREFIX, Settings, load_settings
from chatlab.web.app import create_app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = cast("dict[str, dict[str, Any]]", yaml.safe_load(TEXT)["services"])
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
LAB_COMMANDS = cast("str", SERVICES["lab"]["command"][-1]).split(" && ")
DOCKERFILE = (ROOT / SERVICES["service"]["build"]["dockerfile"]).read_text(encoding="utf-8")


def given_settings(service: str) -> dict[str, str]:
    """Return the settings of a service: `mongo_url` for CHATLAB_MONGO_URL, and so on."""
    environment = cast("dict[str, str]", SERVICES[service]["environment"])
    return {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()}


def copied_files() -> list[str]:
    """Return the files and folders of the repository that are in the image."""
    return [
        word
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY")
        for word in shlex.split(line)[1:-1]
    ]


def option(service: str, flag: str) -> str:
    """Return the value of a flag in the command of a service."""
    command = cast("list[str]", SERVICES[service]["command"])
    return command[command.index(flag) + 1]


@pytest.mark.parametrize("service", OURS)
def test_each_variable_is_a_setting_with_a_good_value(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable is misspelt, and each value is read as it is written."""
    environment = cast("dict[str, str]", SERVICES[service]["environment"])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert [name for name in environment if not name.startswith(PREFIX)] == []
    assert given_settings(service).keys() <= Settings.model_fields.keys()
    assert {
        name: str(getattr(settings, name)).replace("True", "true")
        for name in given_settings(service)
    } == given_settings(service)


@pytest.mark.parametrize("service", OURS)
def test_urls_point_to_the_services_of_the_file(service: str) -> None:
    """The URLs have the names of the services, the replica set of MongoDB, and the ports of the
    images.
    """
    given = given_settings(service)
    mongo, redis = parse_uri(given["mongo_url"]), urlsplit(given["redis_url"])
    assert (mongo["nodelist"], mongo["options"]["replicaSet"]) == (
        [("mongo", 27017)],
        option("mongo", "--replSet"),
    )
    assert (redis.hostname, redis.port) == ("redis", 6379)
    assert set(SERVICES[service]["depends_on"]) == {"mongo", "redis"}
    assert all(
        needed["condition"] == "service_healthy" and "healthcheck" in SERVICES[name]
        for name, needed in SERVICES[service]["depends_on"].items()
    )


def test_redis_is_configured_like_the_private_one(tmp_path: Path) -> None:
    """With Docker and without, Redis stores nothing on disk, evicts what expires soonest, and
    reports expired keys.
    """
    flags = ("maxmemory", "maxmemory-policy", "save", "appendonly", "notify-keyspace-events")
    with (
        open_engines(load_settings(data_dir=tmp_path)) as engines,
        Redis.from_url(engines.redis.url, decode_responses=True) as redis,
    ):
        private = {flag: redis.config_get(flag)[flag] for flag in flags}
        redis.config_set("notify-keyspace-events", option("redis", "--notify-keyspace-events"))
        redis.config_set("maxmemory", option("redis", "--maxmemory"))
        as_redis_spells_them = {
            flag: redis.config_get(flag)[flag] for flag in ("maxmemory", "notify-keyspace-events")
        }
    assert private == {flag: option("redis", f"--{flag}") for flag in flags} | as_redis_spells_them


def test_health_check_creates_the_replica_set() -> None:
    """The health check initiates the replica set with the name of --replSet and a member name that
    clients can resolve.
    """
    script = SERVICES["mongo"]["healthcheck"]["test"][-1]
    assert re.findall(r'_id: "(\w+)"', script) == [option("mongo", "--replSet")]
    assert re.findall(r'host: "([^"]+)"', script) == ["mongo:27017"]
    assert "isWritablePrimary" in script


def test_the_command_exists() -> None:
    """`chatlab serve` exists, and has the options of the file."""
    program, name, *options = cast("list[str]", SERVICES["service"]["command"])
    commands = cast("TyperGroup", get_command(command_line)).commands
    assert program == "chatlab"
    assert commands[name].make_context(name, options).command.name == "serve"


def test_the_health_check_requests_an_existing_route() -> None:
    """The path exists, and the port is the one the service listens on."""
    port, path = re.findall(
        r"http://127\.0\.0\.1:(\d+)(/\w+)", SERVICES["service"]["healthcheck"]["test"][-1]
    )[0]
    assert path in create_app(load_settings(**given_settings("service"))).openapi()["paths"]
    assert port == given_settings("service")["port"]


@pytest.mark.parametrize("service", SERVICES)
def test_only_our_ports_are_published_and_only_on_loopback(service: str) -> None:
    """MongoDB and Redis are reachable only from other containers, our own ports only from this
    machine.
    """
    published = cast("list[str]", SERVICES[service].get("ports", []))
    port = {"service": given_settings("service")["port"], "lab": "8888"}.get(service)
    assert published == ([f"127.0.0.1:{port}:{port}"] if port else [])


def test_the_notebooks_have_jupyterlab_behind_a_profile() -> None:
    """JupyterLab starts only with its profile, listens on the published port, and requires its
    token.
    """
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["lab"]
    _, jupyter = LAB_COMMANDS
    assert "--ip=0.0.0.0 --port=8888" in jupyter
    assert "token" not in jupyter


def test_the_notebooks_are_a_working_copy_made_of_the_files_of_the_image(tmp_path: Path) -> None:
    """JupyterLab opens the copy, which is in a volume. Nothing is missing in the image to make it."""
    (program, *given), jupyter = (shlex.split(command) for command in LAB_COMMANDS)
    folder = given[given.index("lab") + 1]
    assert program == "chatlab"
    assert jupyter[:3] + jupyter[-1:] == ["exec", "jupyter", "lab", folder]
    (volume,) = cast("list[str]", SERVICES["lab"]["volumes"])
    assert Path(volume.partition(":")[2]) in Path(folder).parents

    image, copy = tmp_path / "image", tmp_path / "copy"
    image.mkdir()
    for name in copied_files():
        (image / name).symlink_to(ROOT / name)
    arguments = [str(copy) if word == folder else word for word in given]
    subprocess.run(
        [sys.executable, "-m", "chatlab", *arguments],
        cwd=image,
        env=os.environ | {"PYTHONPATH": str(image)},
        check=True,
        timeout=LIMIT_S,
    )
    assert (copy / "00_start_here.ipynb").exists()
    assert (copy / "docs" / "cache-flow.md").exists()


def test_the_image_is_made_of_files_that_exist() -> None:
    """The Dockerfile copies only files of the repository, among them each lock file that it
    installs.
    """
    copied = copied_files()
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {service["build"]["args"]["LOCK"] for service in OURS.values()} <= set(copied)
    assert "--require-hashes -r $LOCK" in DOCKERFILE


def test_the_image_does_not_run_as_root() -> None:
    """The last user of the image is not root. It is a number, which Kubernetes needs."""
    users = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert int(users[-1]) > 0
    assert f"--uid {users[-1]} " in DOCKERFILE


def test_every_dollar_sign_is_escaped() -> None:
    """Compose replaces $NAME, so each dollar sign of a shell command must be written twice."""
    assert re.sub(r"\$\$", "", TEXT).count("$") == 0


@pytest.mark.parametrize("service", ["mongo", "redis"])
def test_images_are_pinned(service: str) -> None:
    """The image of each server has a full version, and one without known security holes."""
    name, _, tag = SERVICES[service]["image"].partition(":")
    assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
    assert old_version({"mongo": "MongoDB", "redis": "Redis"}[name], tag) is None
