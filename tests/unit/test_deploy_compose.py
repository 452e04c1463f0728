"""deploy/compose.yaml agrees with the code and with itself. The tests only read it."""

import ipaddress
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from pymongo.uri_parser import parse_uri

from chatlab.server_urls import ClusterUrl
from chatlab.settings import PREFIX, Settings, load_settings
from chatlab.web.app import create_app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = cast("dict[str, Any]", yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8")))
SMALL = cast("dict[str, Any]", yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8")))
SERVICES = cast("dict[str, dict[str, Any]]", COMPOSE["services"])
OURS = ["service-1", "service-2", "service-3"]
MEMBERS = ["mongo-1", "mongo-2", "mongo-3"]
NODES = [f"redis-{number}" for number in range(1, 7)]
UPSTREAM = (DEPLOY / "nginx" / "upstream.conf").read_text("utf-8")


def settings_of(service: str) -> Settings:
    """Return the settings that the service would have. A wrong name or value is an error."""
    environment = cast("dict[str, str]", SERVICES[service]["environment"])
    return load_settings(
        **{name.removeprefix(PREFIX).lower(): value for name, value in environment.items()}
    )


def seconds(text: str) -> float:
    """Return a duration such as `25s`."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize("service", OURS)
def test_each_variable_is_a_setting_with_a_good_value(service: str) -> None:
    """No variable is misspelt, and each value is accepted."""
    given = SERVICES[service]["environment"]
    assert {name.removeprefix(PREFIX).lower() for name in given} <= set(Settings.model_fields)
    settings = settings_of(service)
    assert (settings.workers, settings.log_format) == (1, "json")


def test_the_processes_differ_only_in_their_address() -> None:
    """All three are the same service, with the same MongoDB, Redis and key prefix."""
    first, *others = ({**SERVICES[name], "networks": None} for name in OURS)
    assert others == [first, first]


def test_urls_point_to_the_servers_of_the_file() -> None:
    """MongoDB is the replica set that a health check initiates, Redis the cluster of the other."""
    settings = settings_of("service-1")
    mongo = parse_uri(settings.mongo_url or "")
    script = SERVICES["mongo-1"]["healthcheck"]["test"][-1]
    assert mongo["nodelist"] == [(member, 27017) for member in MEMBERS]
    assert re.findall(r'host: "([\w-]+):27017"', script) == MEMBERS
    assert mongo["options"]["replicaSet"] == re.findall(r'_id: "(\w+)"', script)[0]
    for member in MEMBERS:
        assert f"--replSet {mongo['options']['replicaSet']} " in " ".join(
            SERVICES[member]["command"]
        )
    redis = ClusterUrl.of(settings.redis_url or "")
    assert redis
    assert redis.places == [(node, 6379) for node in NODES[:3]]


def test_the_health_check_creates_a_cluster_of_all_nodes() -> None:
    """Three primaries with a replica each, at the fixed addresses, and each node is a cluster's."""
    script = SERVICES["redis-1"]["healthcheck"]["test"][-1]
    addresses = [SERVICES[node]["networks"]["servers"]["ipv4_address"] for node in NODES]
    assert re.findall(r"([\d.]+):6379", script) == addresses
    assert len(addresses) == 3 * (1 + int(re.findall(r"--cluster-replicas (\d)", script)[0]))
    network = ipaddress.ip_network(COMPOSE["networks"]["servers"]["ipam"]["config"][0]["subnet"])
    assert all(ipaddress.ip_address(address) in network for address in addresses)
    for node in NODES:
        assert SERVICES[node]["command"] == SERVICES["redis-1"]["command"]
        assert "--cluster-enabled yes" in " ".join(SERVICES[node]["command"])
        assert SERVICES[node]["volumes"] == [f"{node}:/data"]
    assert SERVICES["redis-1"]["depends_on"] == NODES[1:]


def test_every_part_waits_for_the_ones_it_needs() -> None:
    """Who waits for a healthy service waits for one with a health check."""
    for service in SERVICES.values():
        needed = service.get("depends_on", {})
        for name in needed:
            assert name in SERVICES
            if isinstance(needed, dict):
                assert needed[name] == {"condition": "service_healthy"}
                assert "healthcheck" in SERVICES[name]


def test_the_health_check_requests_readiness_on_the_port_of_the_service() -> None:
    """The path exists, and Docker waits longer than the check, which waits longer than /readyz."""
    check = SERVICES["service-1"]["healthcheck"]
    port, path, timeout_s = re.findall(
        r"http://127\.0\.0\.1:(\d+)(/\w+)', timeout=(\d+)", check["test"][-1]
    )[0]
    settings = settings_of("service-1")
    assert (path, int(port)) == ("/readyz", settings.port)
    assert path in create_app(settings).openapi()["paths"]
    assert 3 < int(timeout_s) < seconds(check["timeout"])


def test_docker_waits_until_a_process_has_stopped() -> None:
    """SIGKILL comes after the time in which the process ends by itself."""
    assert (
        seconds(SERVICES["service-1"]["stop_grace_period"]) > settings_of("service-1").exit_limit_s
    )


def test_nginx_closes_idle_connections_before_a_process_ends() -> None:
    """Otherwise it could send a request on a connection that the process is closing."""
    keepalive_s = float(re.findall(r"keepalive_timeout (\d+)s;", UPSTREAM)[0])
    assert keepalive_s < settings_of("service-1").drain_seconds - 1
    fail_timeouts = {float(found) for found in re.findall(r"fail_timeout=(\d+)s", UPSTREAM)}
    assert max(fail_timeouts) < settings_of("service-1").drain_seconds


def test_nginx_names_all_processes_and_is_their_trusted_proxy() -> None:
    """Its address is fixed, and it is the only one that may say who the client is."""
    port = settings_of("service-1").port
    assert re.findall(r"server ([\w:-]+) ", UPSTREAM) == [f"{name}:{port}" for name in OURS]
    network = ipaddress.ip_network(COMPOSE["networks"]["front"]["ipam"]["config"][0]["subnet"])
    addresses = {
        name: SERVICES[name]["networks"]["front"]["ipv4_address"] for name in (*OURS, "nginx")
    }
    assert len(set(addresses.values())) == len(addresses)
    assert all(ipaddress.ip_address(address) in network for address in addresses.values())
    assert settings_of("service-1").trusted_proxies == addresses["nginx"]


def test_the_servers_cannot_be_reached_from_outside() -> None:
    """MongoDB and Redis have no port and an internal network. Other ports are on loopback only."""
    for name in (*MEMBERS, *NODES):
        assert set(SERVICES[name]["networks"]) == {"servers"}
        assert "ports" not in SERVICES[name]
    assert COMPOSE["networks"]["servers"]["internal"] is True
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_service_runs_without_rights() -> None:
    """Its root file system is read-only, and it can gain no right. Its memory is limited."""
    service = SERVICES["service-1"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["cpus"]


def test_images_are_pinned_and_not_older_than_those_of_the_other_file() -> None:
    """Each image has a full version, except the one that is built here."""
    for name, service in SERVICES.items():
        image, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag) or (name in OURS and "build" in service), image
    for name, small in (("mongo-1", "mongo"), ("redis-1", "redis")):
        versions = [
            tuple(map(int, services[part]["image"].partition(":")[2].split(".")))
            for services, part in ((SERVICES, name), (SMALL["services"], small))
        ]
        assert versions[0] >= versions[1]
    single = SMALL["services"]["redis"]["command"]
    assert SERVICES["redis-1"]["command"][: len(single)] == single


def test_every_mounted_file_exists() -> None:
    """A missing file would be mounted as an empty folder."""
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    files = [volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    assert len(files) >= 6
    assert [name for name in files if not (DEPLOY / name).exists()] == []
    named = {volume.split(":")[0] for volume in volumes if not volume.startswith(".")}
    assert named == set(COMPOSE["volumes"])


def test_the_image_is_built_from_the_same_file() -> None:
    """Both compose files build one Dockerfile, from the root of the repository."""
    build = SERVICES["service-1"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert build["dockerfile"] == SMALL["services"]["service"]["build"]["dockerfile"]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(
        r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE
    )
    assert {name for line in copied for name in line.split()} == allowed
