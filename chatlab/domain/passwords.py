"""The rule for new passwords: not short, not common, and not the name of the user.

There are no rules of composition: they make passwords harder to remember, not harder to guess.
"""

import runpy
import unicodedata
from functools import cache
from importlib.metadata import distribution

from chatlab.errors import Invalid

MIN_LENGTH, MAX_LENGTH = 8, 256  # characters
LIST = "zxcvbn/frequency_lists.py"
SHORT_NAME = 2  # characters: such a name is part of many words


def normalize(password: str) -> str:
    """Return the form of a password that is hashed: the same for each way to type it (NFKC).

    One keyboard writes `é` as one character, another as two.
    """
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, names: list[str | None], field: str = "password") -> None:
    """Raise Invalid for a password that is easy to guess.

    `names` are the names of the user. Neither they nor repetitions count towards the length.
    `field` is the name of the password in the request.
    """
    rest = _without_repetition(normalize(password).casefold())
    for name in sorted(filter(None, names), key=len, reverse=True):  # one may contain the other
        if len(name) > SHORT_NAME:
            rest = rest.replace(normalize(name).casefold(), "")
    if len(rest) < MIN_LENGTH:
        raise Invalid(
            f"{field}: should have at least {MIN_LENGTH} characters besides your name and "
            "repetitions; take a few words that do not belong together"
        )
    if rest in common_passwords():
        raise Invalid(
            f"{field}: should not be one of the most common passwords; take a few words that do "
            "not belong together"
        )


def _without_repetition(text: str) -> str:
    """Return the shortest text that the given one repeats: `ab` for `ababab`."""
    return text[: (text + text).find(text, 1)]


@cache
def common_passwords() -> frozenset[str]:
    """Return the common passwords that are long enough to be accepted otherwise.

    The list is part of the package zxcvbn. Its module runs alone, because importing the package
    keeps 14 MB in memory. The estimator of the package is not used: some passwords of 72 characters
    keep it busy for 6 s.
    """
    path = distribution("zxcvbn").locate_file(LIST)
    lists = runpy.run_path(str(path))["FREQUENCY_LISTS"]
    return frozenset(word for word in lists["passwords"] if len(word) >= MIN_LENGTH)
