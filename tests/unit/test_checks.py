"""Which values a check accepts as an answer."""

from typing import Any

import pytest

from chatlab.lab.checks import UnusableAnswer, call_for_number, is_number


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), True, "5", None, 5 + 0j, [5]])
def test_values_that_are_not_numbers(answer: Any) -> None:
    """Values that cannot be compared with a measurement are not numbers.

    For example, every comparison with nan is false.
    """
    assert not is_number(answer)
    with pytest.raises(UnusableAnswer, match="number"):
        call_for_number(lambda _size: answer, 500)


def test_a_function_that_returns_a_number() -> None:
    """The number is returned for any argument; an unusable function raises a readable error."""
    assert (call_for_number(lambda size: size + 76, 500), is_number(0), is_number(-1.5)) == (
        576.0,
        True,
        True,
    )
    for unusable in (700, lambda: 700, lambda size: size / 0):
        with pytest.raises(UnusableAnswer):
            call_for_number(unusable, 500)
