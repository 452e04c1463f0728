"""SIGHUP stops a process like SIGTERM, unless the process was started with `nohup`."""

import signal
from collections.abc import Iterator

import pytest

from chatlab.web.exit_deadline import stop_at_hang_up


@pytest.fixture
def restored() -> Iterator[None]:
    """Restore the handler of SIGHUP after the test."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("restored")
def test_nohup_is_respected() -> None:
    """A signal that is ignored stays ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_at_hang_up()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop_at_hang_up()
    assert callable(signal.getsignal(signal.SIGHUP))
