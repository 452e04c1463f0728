"""Who counts as online: reports with versions, and users who leave and come back."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chatlab.domain.ids import UserId
from chatlab.realtime import presence as presence_module
from chatlab.realtime.peer_settings import PeerSettings
from chatlab.realtime.presence import LEAVE_DELAY_S, SILENCE_S, Presence, PresenceReport
from chatlab.settings import load_settings

ANN, BOB, CAT = UserId("ann"), UserId("bob"), UserId("cat")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the clock of the presence, as an object whose `s` are seconds."""
    clock = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(presence_module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    return clock


class Pipe:
    """Collects what a presence publishes."""

    def __init__(self) -> None:
        self.reports: list[PresenceReport] = []

    def execute(self, _command: str, _channel: str, report: bytes) -> None:
        self.reports.append(msgspec.json.decode(report, type=PresenceReport))


async def find_no_partners(_user: UserId, _limit: int) -> list[UserId]:
    """Return no one."""
    return []


def open_presence() -> tuple[Presence, list[PresenceReport]]:
    """Return the presence of one process, and the list of its reports."""
    pipe: Any = Pipe()
    settings = PeerSettings(load_settings())
    presence = Presence(None, pipe, "", settings, find_no_partners)
    presence.join("installation")
    return presence, pipe.reports


async def test_a_user_who_comes_back_soon_was_never_away(now: Any) -> None:
    """A user is offline, and reported as such, LEAVE_DELAY_S after the last socket."""
    presence, _ = open_presence()
    presence.add(ANN)
    assert (presence._joined, presence._changes) == ({ANN}, {ANN: True})
    presence._report_whole()
    presence._changes.clear()
    for _ in range(10):
        presence.remove(ANN)
        assert presence.is_online(ANN)
        now.s += LEAVE_DELAY_S / 2
        presence._end_leaving()
        presence.add(ANN)
    presence.remove(ANN)
    presence._end_leaving()
    assert (presence._joined, presence._left, presence._changes) == (set(), set(), {})
    now.s += LEAVE_DELAY_S
    presence._end_leaving()
    assert not presence.is_online(ANN)
    assert (presence._left, presence._changes) == ({ANN}, {ANN: False})


async def test_reports_are_taken_in_order(now: Any) -> None:
    """After a gap the process asks for the whole list, once a second, and believes no change."""
    presence, published = open_presence()

    def receive(version: int, **changes: Any) -> None:
        presence.receive_report(PresenceReport("other", version, **changes))

    def online() -> list[UserId]:
        return [user for user in (ANN, BOB, CAT) if presence.is_online(user)]

    receive(7)
    assert [report.asks for report in published] == ["other"], "a process that is not known"
    receive(8, joined=[ANN])
    assert online() == []
    receive(8, joined=[ANN, BOB], is_whole=True)
    receive(9, joined=[CAT], left=[ANN])
    receive(9)
    assert online() == [BOB, CAT]
    now.s += 2
    for _ in range(3):
        receive(11, left=[CAT])
    assert online() == [BOB, CAT]
    assert [report.asks for report in published] == ["other"] * 2
    receive(11, joined=[BOB], is_whole=True)
    now.s += LEAVE_DELAY_S
    presence._end_leaving()
    assert online() == [BOB]


async def test_users_of_a_silent_process_go_offline(now: Any) -> None:
    """Unless another process has them too."""
    presence, _ = open_presence()
    for process, users in (("one", [ANN, BOB]), ("two", [BOB])):
        presence.receive_report(PresenceReport(process, 1, joined=users, is_whole=True))
    now.s += SILENCE_S + 1
    presence.receive_report(PresenceReport("two", 1))
    presence._forget_silent_processes()
    now.s += LEAVE_DELAY_S
    presence._end_leaving()
    assert (presence.is_online(ANN), presence.is_online(BOB)) == (False, True)
    assert presence._changes == {ANN: False, BOB: True}


async def test_a_process_that_says_goodbye_is_forgotten_at_once(now: Any) -> None:
    """Its users may come back elsewhere, and the cache expects no more writes of it."""
    presence, _ = open_presence()
    presence.receive_report(PresenceReport("other", 1, joined=[ANN], is_whole=True))
    assert presence._settings.shortest_timeout_s() is not None
    presence.receive_report(PresenceReport("other", 1, is_last=True))
    assert (presence._peers, presence._settings.shortest_timeout_s()) == ({}, None)
    assert presence.is_online(ANN)
    now.s += LEAVE_DELAY_S
    presence._end_leaving()
    assert not presence.is_online(ANN)


async def test_a_whole_list_answers_a_question() -> None:
    """A process answers those who ask it or everybody, and the list has its latest changes."""
    presence, published = open_presence()
    presence.add(ANN)
    presence.open()
    presence.receive_report(PresenceReport("other", 0, asks="*"))
    while not any(report.is_whole for report in published):  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)
    (report,) = [report for report in published if report.is_whole]
    assert (report.joined, report.left) == ([ANN], [])
    presence.receive_report(PresenceReport("other", 0, asks="somebody else"))
    assert not presence._must_report_whole
    await presence._tasks.cancel()
