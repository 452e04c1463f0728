"""A Redis command that a learner types on one line: `SET message:mine hello EX 5`."""

import shlex
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from chatlab.lab.checks import UnusableAnswer

ALLOWED = """
    APPEND COPY DEL EVAL EXISTS EXPIRE EXPIREAT GET GETDEL GETEX GETSET INCR LLEN LPOP LPUSH
    LPUSHX LRANGE LSET LTRIM MSET PERSIST PEXPIRE PEXPIREAT PSETEX PTTL RENAME RPOP RPUSH
    RPUSHX SADD SET SETEX SETNX STRLEN TOUCH TTL TYPE UNLINK
"""


def parse_command(answer: Any, key: str) -> list[str]:
    """Split the command into words.

    Raises UnusableAnswer, with a message for the learner, if it is not a command on this key.
    """
    if not isinstance(answer, str):
        raise UnusableAnswer(f'The answer must be a command in quotes, such as "GET {key}".')
    try:
        words = shlex.split(answer)
    except ValueError as error:
        raise UnusableAnswer(f"The command cannot be split into words: {error}.") from None
    name = words[0].upper() if words else ""
    if name in ("MULTI", "EXEC"):
        raise UnusableAnswer(
            "MULTI and EXEC run several commands as one step, which is a good idea. One command alone"
            " can do it, too: find that one."
        )
    if name not in ALLOWED.split():
        raise UnusableAnswer(
            f"{name or 'An empty text'} is not a command that this exercise allows. Start with a"
            " command such as SET, EXPIRE or RPUSH."
        )
    if key not in words[1:]:
        raise UnusableAnswer(f"The command must name the key {key}.")
    return words


def run_command(redis: Redis, words: list[str]) -> Any:
    """Run the command and return Redis's reply. Raises UnusableAnswer with Redis's error message."""
    try:
        return redis.execute_command(*words)  # type: ignore[no-untyped-call]
    except RedisError as error:
        raise UnusableAnswer(f"Redis rejects {words[0].upper()}: {error}.") from None
