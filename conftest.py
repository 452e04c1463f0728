"""The notebooks, run as tests, keep their data in a folder of the test run, not in that of whoever runs it."""

import os
import shutil
import tempfile

import pytest

VARIABLE = "CHATLAB_DATA_DIR"
_folder = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """A kernel inherits the environment of the test run. The folder's name is short, for the sockets in it."""
    config.stash[_folder] = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="chatlab-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The engines in it have ended with the last kernel."""
    shutil.rmtree(config.stash[_folder], ignore_errors=True)
