"""The model of the window keeps its promises in every schedule that is tried, and in some schedule no longer if one rule is broken."""

import pytest
from window_model import BROKEN, SOUND, Rules, first_violation


@pytest.mark.parametrize("rules", SOUND, ids=lambda rules: rules.name)
def test_no_schedule_violates_a_promise(rules: Rules) -> None:
    """With all rules, reads are exact, and after a step of the clock none is older than one TTL."""
    assert not first_violation(rules, range(200))


@pytest.mark.parametrize(
    ("rules", "schedule"), BROKEN.items(), ids=lambda given: getattr(given, "name", "")
)
def test_each_rule_is_needed(rules: Rules, schedule: int) -> None:
    """A schedule violates a promise if one rule is broken, and does not if it holds."""
    assert first_violation(rules, range(schedule, schedule + 1))
    kind = (rules.freezes, rules.steps, rules.round_trip)
    sound = next(one for one in SOUND if (one.freezes, one.steps, one.round_trip) == kind)
    assert not first_violation(sound, range(schedule, schedule + 1))


@pytest.mark.slow
@pytest.mark.parametrize("rules", SOUND, ids=lambda rules: rules.name)
def test_thousands_of_schedules_violate_no_promise(rules: Rules) -> None:
    """The same for many more schedules."""
    assert not first_violation(rules, range(20_000))
