"""For all tests: where the notebooks keep their data, and what goes to which process when several share the work."""

import os
import shutil
import tempfile

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

VARIABLE = "CHATLAB_DATA_DIR"
_folder = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """A kernel inherits the environment of the test run. The folder's name is short, for the sockets in it."""
    config.stash[_folder] = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="chatlab-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The engines in it have ended with the last kernel."""
    shutil.rmtree(config.stash[_folder], ignore_errors=True)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # the library has no types
    """A file's tests share their services, so they stay together; notebooks that are run whole share nothing."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return nodeid if test.startswith("test_checks_tell_right_from_wrong[") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Used with `-n`, as `make test` does."""
    return ByFile(config, log)
