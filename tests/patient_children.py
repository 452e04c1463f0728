"""Start every `chatlab serve` that this process starts with limits that a slow machine does not exceed.

A service with its usual limits goes on without Redis after a fraction of a second, and what was to be cached then is not.
That is right, but a test of the demo or of a notebook's session must not depend on it.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHATLAB = ["-m", "chatlab"]
PROGRAM = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import chatlab.cache.cache
import patient_chatlab
grace_ms = chatlab.cache.cache.grace_ms
patient_chatlab.raise_limits()
chatlab.cache.cache.grace_ms = grace_ms  # a grace period that is longer than a short TTL would keep windows from being complete
patient_chatlab.main()
"""


class PatientPopen(subprocess.Popen[Any]):
    """A child process. `python -m chatlab serve` runs PROGRAM instead."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        if isinstance(args, list) and args[1:4] == [*CHATLAB, "serve"]:
            args = [sys.executable, "-c", PROGRAM, *args[3:]]
        super().__init__(args, *more, **options)


def install() -> None:
    """Use it in this process, until it ends."""
    setattr(subprocess, "Popen", PatientPopen)  # noqa: B010 - a class cannot be assigned to in typed code


@pytest.fixture
def patient_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use it during one test. A module gets this fixture with `pytest_plugins = ["patient_children"]`."""
    monkeypatch.setattr(subprocess, "Popen", PatientPopen)
