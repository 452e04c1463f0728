"""Record the commands that the service sends to MongoDB and Redis during one operation.

MongoDB's profiler records the commands of one database. Redis's MONITOR reports every command of
the server, so only commands on keys with the session's prefix are recorded.
"""

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from pymongo.database import Database
from redis import Redis
from redis.client import Monitor

from chatlab.client import Json

BY_SERVICE = {"appName": "chatlab"}  # the name that the service reports to MongoDB
# Not recorded: the commands of the sweeper and of the notebook's own lookups.
SWEEPER_COMMANDS = {"SCAN", "PTTL", "PEXPIRE"}
# Not recorded: LRANGE reads the messages of a window in the same round trip as the script before it.
SAME_ROUND_TRIP = {"LRANGE"}
# Not recorded: every few seconds the service checks tokens again, also those of open sockets. These
# queries do not belong to the measured operation.
SESSIONS_COLLECTION = ".sessions"
PROFILE_ALL, PROFILE_OFF = 2, 0


class QueryLog(NamedTuple):
    """The commands in the order they were sent, such as `find messages` or `SET message:...`."""

    mongo: list[str]
    redis: list[str]

    def __repr__(self) -> str:
        return f"{_summary('MongoDB', self.mongo)}\n{_summary('Redis', self.redis)}"


def _summary(store: str, commands: list[str]) -> str:
    if not commands:
        return f"{store} received no commands"
    count = "1 command" if len(commands) == 1 else f"{len(commands)} commands"
    return f"{store} received {count}: {', '.join(commands)}"


@contextlib.contextmanager
def record_queries(mongo: Database[Json], redis: Redis, prefix: str) -> Iterator[QueryLog]:
    """Record the commands sent while the block runs. The log is complete when it has ended."""
    log = QueryLog([], [])
    mongo.command("profile", PROFILE_ALL, filter=BY_SERVICE)
    try:
        before = mongo["system.profile"].count_documents(BY_SERVICE)
        with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
            yield log
            redis.echo(f"{prefix}end")
            log.redis.extend(_redis_commands(monitor, prefix))
        entries = mongo["system.profile"].find(BY_SERVICE).sort("$natural", 1).skip(before)
        log.mongo.extend(
            _mongo_command(entry)
            for entry in entries
            if not entry["ns"].endswith(SESSIONS_COLLECTION)
        )
    finally:
        mongo.command("profile", PROFILE_OFF)


def _redis_commands(monitor: Monitor, prefix: str) -> Iterator[str]:
    while True:
        entry: dict[str, str] = monitor.next_command()  # type: ignore[no-untyped-call]
        name, *words = _words(entry["command"])
        name = name.upper()
        if name == "ECHO" and words == [f"{prefix}end"]:
            return
        key = next((word for word in words if word.startswith(f"{prefix}message")), None)
        if key and entry["client_type"] != "lua" and name not in SWEEPER_COMMANDS | SAME_ROUND_TRIP:
            yield f"{name} {key.removeprefix(prefix)}"


def _words(command: str) -> list[str]:
    """Return the words of a command; a message's text may contain anything, quotes too."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _mongo_command(entry: dict[str, Any]) -> str:
    command = next(iter(entry.get("command") or {entry["op"]: ""}))
    return f"{command} {entry['ns'].partition('.')[2]}"
