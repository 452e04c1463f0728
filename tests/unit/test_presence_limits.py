"""What the presence of one user may cost all others: at most one announced change a second."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from chatlab.domain.ids import UserId
from chatlab.realtime import presence as presence_module
from chatlab.realtime.presence import Presence

ANN, BOB, CAT = UserId("ann"), UserId("bob"), UserId("cat")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the clock of the presence, as an object whose `s` are seconds."""
    clock = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(presence_module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    return clock


@pytest.fixture
def presence() -> Presence:
    """Return a presence that is not connected to anything."""
    nothing = cast(Any, None)
    return Presence(nothing, nothing, "")


def test_a_user_is_announced_at_most_once_a_second(presence: Presence, now: Any) -> None:
    """A user who comes and goes is announced once; the last state follows when the second is over."""
    presence.add(ANN)
    assert presence._announce_changes()
    for _ in range(10):
        presence.remove(ANN)
        assert not presence._announce_changes()
        presence.add(ANN)
        assert not presence._announce_changes()
    presence.remove(ANN)
    presence.add(BOB)  # another user is announced at once
    assert presence._announce_changes()
    assert presence._announced == [ANN, BOB]
    assert presence._changed.is_set(), "the change of Ann is looked at again"
    now.s += 1
    assert presence._announce_changes()
    assert presence._announced == [BOB]


def test_a_new_socket_gets_the_list_that_all_clients_have(presence: Presence, now: Any) -> None:
    """It would otherwise miss the end of a change that was never announced to the others."""
    presence.add(BOB)
    presence._announce_changes()
    presence.add(ANN)
    assert presence.announced_to(CAT) == [BOB, CAT]
    assert presence.announced_to(ANN) == [ANN, BOB]
    presence._announce_changes()
    assert presence.announced_to(ANN) == [ANN, BOB]
