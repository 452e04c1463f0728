"""How many questions an act cost: the commands that the service gave to MongoDB and to Redis while it went on.

MongoDB's profiler writes down those of one database, Redis's MONITOR all of them, of which only those with the session's prefix count.
"""

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from pymongo.database import Database
from redis import Redis
from redis.client import Monitor

from chatlab.client import Json

SERVICE = "chatlab"  # what the service calls itself in MongoDB
WORKER = {"SCAN", "PTTL", "PEXPIRE"}  # the worker's commands, and the looks of this notebook
SAME_STEP = {"LRANGE"}  # the messages of a window, asked for in one step with the script before it: not one question more
TOKENS = ".sessions"  # whose a token is, the service asks every few seconds, for open sockets too: that is nobody's act
LEVEL_ALL, LEVEL_OFF = 2, 0


class Asked(NamedTuple):
    """Commands in their order: `find messages`, `SET message:...`."""

    mongo: list[str]
    redis: list[str]

    def __repr__(self) -> str:
        return "\n".join(_told(name, commands) for name, commands in zip(("MongoDB", "Redis"), self, strict=True))


def _told(name: str, commands: list[str]) -> str:
    if not commands:
        return f"{name} was not asked"
    return f"{name} was asked {'once' if len(commands) == 1 else f'{len(commands)} times'}: {', '.join(commands)}"


@contextlib.contextmanager
def listening(mongo: Database[Json], redis: Redis, prefix: str) -> Iterator[Asked]:
    """What is asked while the block goes on; complete when it has ended."""
    asked = Asked([], [])
    mongo.command("profile", LEVEL_ALL, filter={"appName": SERVICE})
    try:
        before = mongo["system.profile"].count_documents({"appName": SERVICE})
        with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
            yield asked
            redis.echo(f"{prefix}end")
            asked.redis.extend(_heard(monitor, prefix))
        entries = mongo["system.profile"].find({"appName": SERVICE}).sort("$natural", 1).skip(before)
        asked.mongo.extend(_profiled(entry) for entry in entries if not entry["ns"].endswith(TOKENS))
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
    """Its first words. A message's text may hold anything, quotes too."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _profiled(entry: dict[str, Any]) -> str:
    command = next(iter(entry.get("command") or {entry["op"]: ""}))
    return f"{command} {entry['ns'].partition('.')[2]}"
