"""A Redis command that a learner types on one line: `SET message:mine hello EX 5`."""

import shlex
from typing import Any

from redis.exceptions import RedisError

from chatlab.lab.session import Lab
from chatlab.lab.verdicts import Unusable

KNOWN = {
    *(
        "APPEND",
        "COPY",
        "DEL",
        "EVAL",
        "EXISTS",
        "EXPIRE",
        "EXPIREAT",
        "GET",
        "GETDEL",
        "GETEX",
        "GETSET",
        "INCR",
        "LLEN",
    ),
    *(
        "LPOP",
        "LPUSH",
        "LPUSHX",
        "LRANGE",
        "LSET",
        "LTRIM",
        "MSET",
        "PERSIST",
        "PEXPIRE",
        "PEXPIREAT",
        "PSETEX",
        "PTTL",
        "RENAME",
        "RPOP",
    ),
    *(
        "RPUSH",
        "RPUSHX",
        "SADD",
        "SET",
        "SETEX",
        "SETNX",
        "STRLEN",
        "TOUCH",
        "TTL",
        "TYPE",
        "UNLINK",
    ),
}


def command_of(answer: Any, key: str) -> list[str]:
    """Split the command into words.

    Raises Unusable, with a message for the learner, if it is not a command on this key.
    """
    if not isinstance(answer, str):
        raise Unusable(f'The answer is a command in quotes, such as "GET {key}".')
    try:
        words = shlex.split(answer)
    except ValueError as wrong:
        raise Unusable(f"This cannot be taken apart into words: {wrong}.") from None
    name = words[0].upper() if words else ""
    if name in ("MULTI", "EXEC"):
        raise Unusable(
            "MULTI and EXEC hold several commands together, a good thought. There is a way with a single command: try that."
        )
    if name not in KNOWN:
        raise Unusable(
            f"{name or 'Nothing'} is no command that can be tried here. It begins with a word such as SET, EXPIRE or RPUSH."
        )
    if key not in words[1:]:
        raise Unusable(f"The command is to be about the key {key}: that is one of its words.")
    return words


def give(lab: Lab, words: list[str]) -> Any:
    """Run the command and return Redis's reply. Raises Unusable with Redis's error message."""
    try:
        return lab.redis(*words)
    except RedisError as refused:
        raise Unusable(f"Redis refuses {words[0].upper()}: {refused}.") from None
