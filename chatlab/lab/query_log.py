"""Record the commands that the service sends to MongoDB and Redis during one operation.

Both servers know the service by its name, so commands of the notebook's own clients are not
recorded. MongoDB's profiler records the commands of one database. Redis's slow log records the
commands of all clients when its threshold is 0, each with the name of its client.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from pymongo.database import Database
from redis import Redis

from chatlab.client import Json

SERVICE = "chatlab"  # its name at both servers
BY_SERVICE = {"appName": SERVICE}
# Not recorded: the commands of the sweeper, LRANGE, which reads the messages of a window in the same
# round trip as the script before it, and the commands of scripts, which Valkey logs and Redis does
# not.
REQUESTS = {"EVALSHA", "EVAL", "GET"}
# Not recorded: every few seconds the service checks tokens again, also those of open sockets. These
# queries do not belong to the measured operation.
SESSIONS_COLLECTION = ".sessions"
PROFILE_ALL, PROFILE_OFF = 2, 0
MAX_COMMANDS = 100_000
LOG_ALL_US, LOG_SLOW_US = 0, 10_000  # thresholds of Redis's slow log; the second is its default


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
def record_queries(mongo: Database[Json], redis: Redis) -> Iterator[QueryLog]:
    """Record the commands sent while the block runs. The log is complete when it has ended."""
    log = QueryLog([], [])
    with _profiler(mongo, log.mongo), _slow_log(redis, log.redis):
        yield log


@contextlib.contextmanager
def _profiler(mongo: Database[Json], commands: list[str]) -> Iterator[None]:
    mongo.command("profile", PROFILE_ALL, filter=BY_SERVICE)
    try:
        before = mongo["system.profile"].count_documents(BY_SERVICE)
        yield
        entries = mongo["system.profile"].find(BY_SERVICE).sort("$natural", 1).skip(before)
        commands.extend(
            _mongo_command(entry)
            for entry in entries
            if not entry["ns"].endswith(SESSIONS_COLLECTION)
        )
    finally:
        mongo.command("profile", PROFILE_OFF)


def _mongo_command(entry: dict[str, Any]) -> str:
    command = next(iter(entry.get("command") or {entry["op"]: ""}))
    return f"{command} {entry['ns'].partition('.')[2]}"


@contextlib.contextmanager
def _slow_log(redis: Redis, commands: list[str]) -> Iterator[None]:
    redis.config_set("slowlog-max-len", MAX_COMMANDS)
    redis.slowlog_reset()
    redis.config_set("slowlog-log-slower-than", LOG_ALL_US)
    try:
        yield
        # Newest first: id, time, microseconds, words, address, name of the client.
        entries: Any = redis.execute_command("SLOWLOG", "GET", MAX_COMMANDS)  # type: ignore[no-untyped-call]
        nothing: list[str] = []
        sent: list[list[str]] = [
            words for *_, words, _address, client in reversed(entries) if client == SERVICE
        ]
        for words, following in itertools.zip_longest(sent, sent[1:], fillvalue=nothing):
            # Only a script writes with SET, and it reads before that.
            in_script = words[0] == "GET" and following[:2] == ["SET", *words[1:]]
            if not in_script and (command := _redis_command(*words)):
                commands.append(command)
    finally:
        redis.config_set("slowlog-log-slower-than", LOG_SLOW_US)


def _redis_command(name: str, *words: str) -> str | None:
    """Return the command with its key; None if it is not one on a message or a window."""
    key = next((word for word in words if word.startswith("message")), None)
    return f"{name} {key}" if key and name in REQUESTS else None
