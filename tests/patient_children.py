"""A fixture: every `chatlab serve` that this process starts has generous limits, as `forking.py` describes."""

import subprocess

import pytest
from forking import PatientPopen


@pytest.fixture
def patient_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `subprocess.Popen` during one test. A module gets this fixture with `pytest_plugins = ["patient_children"]`."""
    monkeypatch.setattr(subprocess, "Popen", PatientPopen)
