"""A shared service whose answers do not depend on the speed of the machine: generous limits, and a TTL that no test outlives.

A test module uses it with `pytest_plugins = ["patient"]` and a fixture `house` that returns `patient_house`.
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pymongo
import pytest
import redis
from house import House
from live import Service
from waiting import block_until

from chatlab.engines import Engines

TTL_S = 300
PROGRAM = Path(__file__).with_name("patient_chatlab.py")


class PatientService(Service):
    """A `chatlab serve` that waits for a slow Redis or MongoDB."""

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATLAB_")}
        environment |= {f"CHATLAB_{name}": value for name, value in self.settings.items()}
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, str(PROGRAM), "serve"], env=environment, stdout=log, stderr=log)

    def wait_until_reachable(self) -> "PatientService":
        """Wait until the service answers and has reached both MongoDB and Redis."""
        self.wait_until_ready()
        block_until(self._status, "the service to reach its engines", is_reached=lambda status: status == "ok")
        return self

    def _status(self) -> str:
        return str(httpx.get(f"{self.url}/readyz", timeout=60).json()["status"])


class PatientHouse(House):
    """A house whose annexes are patient too."""

    @contextlib.contextmanager
    def annexe(self, log: Path, **settings: str) -> Iterator[House]:
        prefix = f"{self.prefix}{secrets.token_hex(3)}:"
        given = self.service.settings | {"KEY_PREFIX": prefix} | settings
        mongo_url, redis_url = given.pop("MONGO_URL"), given.pop("REDIS_URL")
        del given["PORT"]
        service = PatientService(mongo_url, redis_url, log, **given)
        try:
            yield PatientHouse(service.wait_until_reachable(), self.database, self.keys, prefix)
        finally:
            service.kill()


@pytest.fixture(scope="session")
def patient_house(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One patient service for all modules that ask for it. At the end no key may be without an expiry."""
    space = f"patient{secrets.token_hex(4)}"
    settings = {"DATABASE": space, "KEY_PREFIX": f"{space}:", "FLOW": "1", "CACHE_TTL": str(TTL_S)}
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo, redis.Redis.from_url(engines.redis.url) as keys:
        service = PatientService(engines.mongo.url, engines.redis.url, tmp_path_factory.mktemp("patient") / "log", **settings)
        try:
            yield PatientHouse(service.wait_until_reachable(), mongo[space], keys, f"{space}:")
            leaked = [key for key in keys.scan_iter(f"{space}:*") if keys.pttl(key) == -1]
            assert not leaked, f"keys without an expiry: {leaked}"
            keys.delete(f"{space}:probe", *keys.scan_iter(f"{space}:*"))
        finally:
            service.kill()
            mongo.drop_database(space)
