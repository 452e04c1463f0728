"""Start every `chatlab serve` that this process starts with limits that a slow machine does not exceed.

With its usual limits, the service stops waiting for Redis after 0.2 s, and then does not cache the message. That is right, but a test of
the demo or of a notebook must not depend on it.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHATLAB = ["-m", "chatlab"]
PROGRAM = f"""
import os
import sys
sys.path.append({str(Path(__file__).parent)!r})
import patient_chatlab
os.environ["CHATLAB_REDIS_TIMEOUT"] = str(patient_chatlab.LIMIT_S)
patient_chatlab.raise_limits()
patient_chatlab.main()
"""


class PatientPopen(subprocess.Popen[Any]):
    """A child process, in which `python -m chatlab serve` runs PROGRAM instead."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        if isinstance(args, list) and args[1:4] == [*CHATLAB, "serve"]:
            args = [sys.executable, "-c", PROGRAM, *args[3:]]
        super().__init__(args, *more, **options)


def install() -> None:
    """Replace `subprocess.Popen` until this process ends."""
    setattr(subprocess, "Popen", PatientPopen)  # noqa: B010 - a class cannot be assigned to in typed code


@pytest.fixture
def patient_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `subprocess.Popen` during one test. A module gets this fixture with `pytest_plugins = ["patient_children"]`."""
    monkeypatch.setattr(subprocess, "Popen", PatientPopen)
