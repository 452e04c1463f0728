"""A service whose answers do not depend on the speed of the machine: its limits are generous."""

import sys
from pathlib import Path

from live import GenerousService
from waiting import PATIENT_LIMIT_S

TTL_S = 300  # longer than any test takes
PROGRAM = Path(__file__).with_name("patient_chatlab.py")


class PatientService(GenerousService):
    """A `chatlab serve` that waits for a slow Redis or MongoDB."""

    command = (sys.executable, str(PROGRAM), "serve")
    ready_statuses = ("ok",)  # it has reached both MongoDB and Redis

    def __init__(self, mongo_url: str, redis_url: str, log: Path, **settings: str) -> None:
        given = {"REDIS_TIMEOUT": str(PATIENT_LIMIT_S), **settings}
        super().__init__(mongo_url, redis_url, log, **given)
