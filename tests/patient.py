"""A service whose answers do not depend on the speed of the machine: its limits are generous."""

import sys
from pathlib import Path

from http_clients import fetch
from live import Service
from patient_chatlab import LIMIT_S
from waiting import block_until

TTL_S = 300  # longer than any test takes
PROGRAM = Path(__file__).with_name("patient_chatlab.py")


class PatientService(Service):
    """A `chatlab serve` that waits for a slow Redis or MongoDB."""

    command = (sys.executable, str(PROGRAM), "serve")

    def __init__(self, mongo_url: str, redis_url: str, log: Path, **settings: str) -> None:
        given = {"REDIS_TIMEOUT": str(LIMIT_S), **settings}
        super().__init__(mongo_url, redis_url, log, **given)

    def wait_until_ready(self) -> "PatientService":
        """Wait until the service answers and has reached both MongoDB and Redis."""
        super().wait_until_ready()
        block_until(
            self._status,
            "the service to reach its servers",
            is_reached=lambda status: status == "ok",
        )
        return self

    def _status(self) -> str:
        return str(fetch(f"{self.url}/readyz").json()["status"])
