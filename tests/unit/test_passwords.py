"""The rule for new passwords."""

import pytest

from chatlab.domain.passwords import check_password
from chatlab.errors import Invalid


@pytest.mark.parametrize(
    "password",
    [
        "correct horse",
        "nothing but lower case",
        "a passphrase that is very long " * 8,
        "alice likes chess",
        "jrqvxwtz",
        "schöne grüße",
        "👍👎👍👎 and words",
    ],
)
def test_a_good_password_is_accepted(password: str) -> None:
    """There are no rules about digits or capitals, and long passphrases are allowed."""
    check_password(password, ["alice", "Al"])


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("password", "most common"),
        ("PassWord123", "most common"),
        ("iloveyou", "most common"),
        ("passwordpassword", "most common"),
        ("alicepassword", "most common"),
        ("aliceali", "besides your name"),
        ("Alice1990", "besides your name"),
        ("Alice Liddell!", "besides your name"),
        ("aaaaaaaaaaaaaaaa", "repetitions"),
        ("12341234", "repetitions"),
    ],
)
def test_a_password_that_is_easy_to_guess_is_rejected(password: str, problem: str) -> None:
    """The error says what is wrong and what would be right."""
    with pytest.raises(Invalid) as rejected:
        check_password(password, ["alice", "Alice Liddell"])
    assert rejected.value.detail.startswith("password: should ")
    assert problem in rejected.value.detail
    assert rejected.value.detail.endswith("take a few words that do not belong together")


def test_a_short_name_may_be_part_of_a_password() -> None:
    """A name of one or two letters is part of many words."""
    check_password("a banana", ["a", None])
