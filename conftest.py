"""For all tests: the data folder of the notebooks, the markers, and which tests run in the same
process.
"""

import os
import shutil
import signal
import tempfile

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings

VARIABLE = "CHATLAB_DATA_DIR"
SOLUTIONS = "test_checks_tell_right_from_wrong["  # each runs one notebook in its own kernel

SLOW = {  # files that run on demand
    "10_is_it_faster.ipynb",  # these two measure for half a minute
    "11_is_it_lighter.ipynb",
    "13_the_ledger.ipynb",  # repeats the measurements of the other notebooks
    "test_benchmarks.py",  # the benchmarks themselves are not part of the service
    "test_jupyterlab.py",  # like the next one, starts a JupyterLab and a browser
    "test_widgets_in_jupyterlab.py",  # drives every widget in one JupyterLab
}
SERVERS = {  # files whose tests start services, engines or commands of their own
    f"test_{name}.py"
    for name in (
        *(
            "bench",
            "benchmarks",
            "contract_sockets",
            "demo",
            "docs_commands",
            "doctor",
            "dropped_requests",
            "durability",
            "engines",
            "group_commit",
            "lab",
        ),
        *(
            "lab_page",
            "lab_switches",
            "lesson_breaking",
            "measure",
            "mongodb_outages",
            "packaging",
            "presence",
            "processes",
            "redis_outages",
        ),
        *("reads", "settings", "shutdown", "sweeper", "widgets", "window"),
    )
}

_folder = pytest.StashKey[str]()
_engines = pytest.StashKey[Engines]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the data folder of this test run. Kernels inherit it through the environment.

    Its path is short, because it contains sockets.
    """
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it in background jobs,
    signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # nohup ignores this, and child processes would inherit both
    config.stash[_folder] = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="chatlab-")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the private servers before the first notebook, so that not every kernel starts and
    stops them.
    """
    if _runs_a_notebook(item) and _engines not in item.config.stash:
        item.config.stash[_engines] = open_engines(load_settings())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop these servers and remove their data."""
    if engines := config.stash.get(_engines, None):
        engines.close()
    shutil.rmtree(config.stash[_folder], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, for `make test-quick`."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker("slow")
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.path.suffix == ".ipynb" or item.path.name == "test_notebooks.py":
            item.add_marker("notebook")
        elif fixtures & {"browser", "chromium"} or "jupyterlab" in item.path.name:
            item.add_marker("browser")
        elif item.path.name in SERVERS:
            item.add_marker("servers")


def _runs_a_notebook(item: pytest.Item) -> bool:
    return item.path.suffix == ".ipynb" or SOLUTIONS in item.nodeid


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # the library has no types
    """Keep the tests of a file in one process, because they share services.

    Tests of whole notebooks share nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if SOLUTIONS in nodeid else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Schedule tests by file with `-n`, which `make test` uses."""
    return ByFile(config, log)
