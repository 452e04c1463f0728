"""A plugin of pytest: the notebooks run as people read them, with a pause before each cell."""

import os
import time

import pytest

PAUSE_S = float(os.environ.get("READING_PAUSE_S", "10"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Pause before a cell. The kernel and everything it has started continue meanwhile."""
    if item.path.suffix == ".ipynb":
        time.sleep(PAUSE_S)
