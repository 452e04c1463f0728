"""Schemathesis tries the whole API, as OpenAPI describes it, against a real service."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_service import SharedService, UserMaker, start_shared_service

from chatlab.local.engines import Engines

PROGRAM = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("schemathesis.toml")
LOG_OUT = "/api/auth/logout"  # ends the session, so it is tried apart from all others

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """A service with all routes and without rate limits."""
    log = tmp_path_factory.mktemp("shared") / "service.log"
    with start_shared_service(engines, log, LOGIN_LIMIT="0") as shared:
        yield shared


@pytest.mark.parametrize("paths", [["--exclude-path", LOG_OUT], ["--include-path", LOG_OUT]])
async def test_the_service_keeps_what_openapi_promises(
    shared: SharedService, new_user: UserMaker, tmp_path: Path, paths: list[str]
) -> None:
    """Statuses, headers and bodies are as described, and no input gives a 5xx."""
    ann, bob = new_user(), new_user()
    message = await ann.send(bob, "hello")
    token = f"Authorization: Bearer {ann.token}"
    config = tmp_path / CONFIG.name
    filled = CONFIG.read_text().replace("OTHER_USER", bob.id).replace("MESSAGE", message["_id"])
    config.write_text(filled)
    command = (PROGRAM, "--config-file", config, "run", f"{ann.service.url}/openapi.json")
    run = await asyncio.create_subprocess_exec(*command, "--header", token, *paths, cwd=tmp_path)
    assert await run.wait() == 0, "see the report above"
    assert "unexpected" not in shared.service.log.read_text()
