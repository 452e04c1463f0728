"""For all tests: the data folder of the notebooks, the markers, and which tests share a process."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

sys.path.append(str(Path(__file__).with_name("tests")))
import prefork

from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings

# nbformat, which nbval imports, works without this library. It builds a parser when it is imported,
# which takes 3 s in each process of the tests.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
pytest_plugins = ["nbval.plugin"]  # only now, so pyproject.toml turns its automatic import off

VARIABLE = "CHATLAB_DATA_DIR"
MEMORY, ROOM_BYTES = Path("/dev/shm"), 6 * 2**30  # noqa: S108 - a whole run needs about 1 GB
# Each runs one notebook in its own kernel.
WHOLE_NOTEBOOKS = (
    "test_checks_tell_right_from_wrong[",
    "test_all_cells_at_once_and_each_one_after_the_end[",
    "test_outputs_are_the_same_at_a_reading_pace[",
)

FOLDERS = {"unit", "engine", "processes", "hostile", "cluster", "browser", "notebook"}  # markers
SLOW_NOTEBOOKS = {
    "10_is_it_faster.ipynb",  # these two measure for half a minute
    "11_is_it_lighter.ipynb",
    "13_the_scorecard.ipynb",  # repeats the measurements of the other notebooks
    "16_beyond_one_machine.ipynb",  # starts nine servers, and waits for two failovers
}

# IPython runs this in each kernel. The services of a notebook are then copies of a process that has
# loaded their libraries already, which saves much of the time of a notebook.
STARTUP = f"""
import sys
sys.path.append({str(Path(__file__).with_name("tests"))!r})
import forking
forking.install_in_kernel()
del forking, sys
"""

_folder = pytest.StashKey[str]()
_engines = pytest.StashKey[Engines]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the data folder of this test run. Kernels inherit it through the environment.

    Its path is short, because it contains sockets.
    """
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    if has_room and "TMPDIR" not in os.environ:
        # A disk that stalls for a second makes MongoDB late. Killed servers find their files again.
        os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None
    # A shell ignores SIGINT in background jobs, nohup ignores SIGHUP, and children inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.stash[_folder] = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="chatlab-")
    os.environ["IPYTHONDIR"] = f"{config.stash[_folder]}/ipython"
    startup = Path(os.environ["IPYTHONDIR"], "profile_default", "startup", "copies.py")
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the private servers before the first notebook, so that not every kernel starts and
    stops them.
    """
    if _runs_a_notebook(item) and _engines not in item.config.stash:
        item.config.stash[_engines] = open_engines(load_settings())
        prefork.server()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop these servers and remove their data."""
    if engines := config.stash.get(_engines, None):
        engines.close()
    shutil.rmtree(config.stash[_folder], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that run any tests on servers with several members."""
    parser.addoption(
        "--replica-set", action="store_true", help="let the MongoDB of the test run have 3 members"
    )
    parser.addoption(
        "--redis-cluster", action="store_true", help="let the Redis of the test run have 6 nodes"
    )
    parser.addoption(
        "--sentinel", action="store_true", help="let Sentinels watch the Redis of the test run"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder, and the notebooks that take long."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("notebook")
        for folder in FOLDERS & {item.path.parent.name}:
            item.add_marker(folder)
        if item.path.name in SLOW_NOTEBOOKS:
            item.add_marker("slow")


def _runs_a_notebook(item: pytest.Item) -> bool:
    return item.path.suffix == ".ipynb" or _is_whole_notebook(item.nodeid)


def _is_whole_notebook(nodeid: str) -> bool:
    return any(name in nodeid for name in WHOLE_NOTEBOOKS)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # the library has no types
    """Keep the tests of a file in one process, because they share services.

    Tests of whole notebooks share nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if _is_whole_notebook(nodeid) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Schedule tests by file with `-n`, which `make test` uses."""
    return ByFile(config, log)
