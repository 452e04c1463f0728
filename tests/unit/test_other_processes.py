"""Which other processes may run, and which events of this one are owed."""

import asyncio

import pytest

from chatlab.errors import StoreUnavailable
from chatlab.realtime.other_processes import MISSED_REPORTS, OtherProcesses
from chatlab.realtime.owed_events import OwedEvents


def hear_own_reports(others: OtherProcesses, count: int) -> list[float | None]:
    """Let reports of this process arrive, and return what each of them shows."""
    return [others.note_own_report() for _ in range(count)]


def test_a_process_knows_only_after_some_reports_that_it_is_alone() -> None:
    """Until then, others may not have reported yet."""
    others = OtherProcesses()
    hear_own_reports(others, MISSED_REPORTS - 1)
    assert others.may_run
    hear_own_reports(others, 1)
    assert not others.may_run


def test_a_process_is_lost_when_it_is_missing_between_our_reports() -> None:
    """While no report of our own arrives, the others are still expected."""
    others = OtherProcesses()
    hear_own_reports(others, MISSED_REPORTS)
    others.note_report("one")
    hear_own_reports(others, MISSED_REPORTS - 1)
    others.note_report("two")
    assert others.are_known
    (silent_s,) = hear_own_reports(others, 1)
    assert silent_s is not None
    assert others.may_run, "the second one"
    assert hear_own_reports(others, MISSED_REPORTS - 2) == [None] * (MISSED_REPORTS - 2)
    assert hear_own_reports(others, 1) != [None]
    assert not others.may_run


def test_a_process_that_says_goodbye_is_not_lost() -> None:
    """Nothing is to be done for it, and events are not published for it any more."""
    others = OtherProcesses()
    others.note_report("one")
    others.note_goodbye("one")
    assert hear_own_reports(others, MISSED_REPORTS) == [None] * MISSED_REPORTS
    assert not others.may_run


async def test_a_request_that_was_cancelled_still_owes_its_event() -> None:
    """One that has finished does not, nor one that has failed with an error for its client."""
    owed = OwedEvents()
    with owed, owed:
        pass
    with pytest.raises(StoreUnavailable), owed:
        raise StoreUnavailable
    with owed:
        waiting = asyncio.create_task(owed.wait_until_none())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    with pytest.raises(asyncio.CancelledError), owed:
        raise asyncio.CancelledError
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(owed.wait_until_none(), timeout=0)
