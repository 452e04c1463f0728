"""What the presence of one user may cost all others: at most one announced change a second."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from chatlab.domain.ids import UserId
from chatlab.realtime import presence as presence_module
from chatlab.realtime.peer_settings import PeerSettings
from chatlab.realtime.presence import Presence, PresenceReport
from chatlab.settings import load_settings

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
    return Presence(nothing, nothing, "", PeerSettings(load_settings()))


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
    assert presence._pending == {ANN}, "looked at again"
    now.s += 1
    assert presence._announce_changes()
    assert presence._announced == [BOB]


def test_the_list_of_a_new_socket_has_what_all_clients_will_receive(
    presence: Presence, now: Any
) -> None:
    """It has everyone who is announced by then, and its own user. Everybody else receives the same list."""
    presence.add(BOB)
    presence.add(ANN)
    assert presence.announced_to(ANN) == [ANN, BOB]
    assert presence._must_notify
    presence.remove(BOB)  # is announced later, so a new socket sees Bob as all others do
    presence.add(CAT)
    assert presence.announced_to(CAT) == [ANN, BOB, CAT]
    presence.remove(CAT)
    presence.add(CAT)
    now.s += 1
    assert presence.announced_to(CAT) == [ANN, CAT]


def test_users_of_other_processes_are_announced(presence: Presence, now: Any) -> None:
    """A user goes offline when no process reports the user any more."""
    presence.receive_report(PresenceReport("one", [ANN, BOB], is_new=False))
    presence.receive_report(PresenceReport("two", [BOB], is_new=False))
    assert presence._announce_changes()
    now.s += 1
    presence.receive_report(PresenceReport("one", [], is_new=False))
    assert presence._announce_changes()
    assert presence._announced == [BOB]
    now.s += presence_module.SILENCE_S + 1
    presence._forget_silent_processes()
    assert presence._announce_changes()
    assert presence._announced == []
