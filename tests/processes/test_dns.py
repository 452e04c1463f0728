"""A service whose MongoDB is found by DNS (`mongodb+srv://`) waits while DNS does not answer."""

import sys
from pathlib import Path

import own_dns
import pytest
from faults import Deployment
from http_clients import fetch
from live import Service
from own_servers import initiate, own_mongod
from waiting import wait_until


async def test_a_dns_outage_at_start_is_waited_for(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service starts, is alive and not ready, and finds MongoDB as soon as DNS answers."""
    with own_mongod(tmp_path / "mongo") as port:
        initiate(port)
        dns = own_dns.OwnDns(port)
        command = (sys.executable, own_dns.__file__, str(dns.port), "serve")
        monkeypatch.setattr(Service, "command", command)
        url = f"mongodb+srv://{own_dns.DOMAIN}/?tls=false"
        log = tmp_path / "service.log"
        service = Service(url, deployment.engines.redis.url, log, KEY_PREFIX=f"{tmp_path.name}:")
        try:
            service.wait_until_ready()
            before = dns.questions
            assert before > 0
            assert fetch(f"{service.url}/healthz").status_code == 200
            assert fetch(f"{service.url}/readyz").json()["status"] == "unavailable"
            await wait_until(lambda: dns.questions > before, "another question")
            dns.is_up = True
            await wait_until(lambda: fetch(f"{service.url}/readyz").is_success, "MongoDB")
        finally:
            service.end()
