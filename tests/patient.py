"""A service whose results do not depend on the speed of the machine: its limits and its TTL are longer than any test."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from live import Service
from shared_service import SharedService
from waiting import block_until

TTL_S = 300
PROGRAM = Path(__file__).with_name("patient_chatlab.py")


class PatientService(Service):
    """A `chatlab serve` that never gives up on a slow Redis or MongoDB."""

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


class PatientSharedService(SharedService):
    """A shared service whose other processes are patient too."""

    @contextlib.contextmanager
    def another_process(self, log: Path, **settings: str) -> Iterator[SharedService]:
        prefix = f"{self.prefix}{secrets.token_hex(3)}:"
        given = self.service.settings | {"KEY_PREFIX": prefix} | settings
        mongo_url, redis_url = given.pop("MONGO_URL"), given.pop("REDIS_URL")
        del given["PORT"]
        service = PatientService(mongo_url, redis_url, log, **given)
        try:
            yield PatientSharedService(service.wait_until_reachable(), self.database, self.keys, prefix)
        finally:
            service.kill()
