"""Count the commands that the service sends to MongoDB and Redis during one operation.

MongoDB's profiler records the commands of one database. Redis's MONITOR reports every command of
the server, so only commands on keys with the session's prefix are counted.
"""

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from pymongo.database import Database
from redis import Redis
from redis.client import Monitor

from chatlab.client import Json

SERVICE = "chatlab"  # the appName that the service reports to MongoDB
# Not counted: these are the commands of the sweeper and of the notebook's own lookups.
WORKER = {"SCAN", "PTTL", "PEXPIRE"}
# Not counted: LRANGE reads the messages of a window in the same round trip as the script before it.
SAME_STEP = {"LRANGE"}
# Not counted: every few seconds the service checks tokens again, also those of open sockets. These
# queries do not belong to the measured operation.
TOKENS = ".sessions"
LEVEL_ALL, LEVEL_OFF = 2, 0


class Asked(NamedTuple):
    """The commands in the order they were sent, such as `find messages` or `SET message:...`."""

    mongo: list[str]
    redis: list[str]

    def __repr__(self) -> str:
        return "\n".join(
            _told(name, commands) for name, commands in zip(("MongoDB", "Redis"), self, strict=True)
        )


def _told(name: str, commands: list[str]) -> str:
    if not commands:
        return f"{name} was not asked"
    return f"{name} was asked {'once' if len(commands) == 1 else f'{len(commands)} times'}: {', '.join(commands)}"


@contextlib.contextmanager
def listening(mongo: Database[Json], redis: Redis, prefix: str) -> Iterator[Asked]:
    """Record the commands sent while the block runs. The result is complete when it has ended."""
    asked = Asked([], [])
    mongo.command("profile", LEVEL_ALL, filter={"appName": SERVICE})
    try:
        before = mongo["system.profile"].count_documents({"appName": SERVICE})
        with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
            yield asked
            redis.echo(f"{prefix}end")
            asked.redis.extend(_heard(monitor, prefix))
        entries = (
            mongo["system.profile"].find({"appName": SERVICE}).sort("$natural", 1).skip(before)
        )
        asked.mongo.extend(
            _profiled(entry) for entry in entries if not entry["ns"].endswith(TOKENS)
        )
    finally:
        mongo.command("profile", LEVEL_OFF)


def _heard(monitor: Monitor, prefix: str) -> Iterator[str]:
    while True:
        told: dict[str, str] = monitor.next_command()  # type: ignore[no-untyped-call]
        name, *words = _words(told["command"])
        if name.upper() == "ECHO" and words == [f"{prefix}end"]:
            return
        key = next((word for word in words if word.startswith(f"{prefix}message")), None)
        if key and told["client_type"] != "lua" and name.upper() not in WORKER | SAME_STEP:
            yield f"{name.upper()} {key.removeprefix(prefix)}"


def _words(command: str) -> list[str]:
    """Return the words of a command; a message's text may contain anything, quotes too."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _profiled(entry: dict[str, Any]) -> str:
    command = next(iter(entry.get("command") or {entry["op"]: ""}))
    return f"{command} {entry['ns'].partition('.')[2]}"
