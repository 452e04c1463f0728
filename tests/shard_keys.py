"""Check that the commands which a service sends to MongoDB name the shard keys.

The router of a sharded cluster, mongos, is in no package that the tests could install. So the tests
cannot run on a cluster, and look at every command instead. A service under test calls `watch`,
which writes each kind of command to the log of the service, once. `check_log` reads it when the
service ends.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import monitoring

from chatlab.store.sharding import SHARD_KEYS

Document = dict[str, Any]
SCALING = Path(__file__).parent.parent / "docs" / "scaling.md"
PREFIX = "SHARD KEY"
EXPLANATION = (
    "A sharded cluster refuses these commands, or sends them to every shard. Add the shard key to "
    "the filter. If a read cannot know it, list the command in docs/scaling.md with the reason"
)
# What a router does with a command: it asks only the shards that have the documents, it asks all of
# them, or it refuses the command.
TARGETED, BROADCAST, REFUSED = "targeted", "broadcast", "refused"
# They name no documents: they belong to a cursor, or run when a service starts.
OTHER_COMMANDS = {"getMore", "killCursors", "createIndexes", "listIndexes", "count"}


class Seen(NamedTuple):
    """A kind of command, for example `messages.find(_id)`, and what a router does with it."""

    kind: str
    outcome: str


def watch() -> None:
    """Write each kind of command of this process to standard output from now on."""
    monitoring.register(_Listener())


class _Listener(monitoring.CommandListener):
    def __init__(self) -> None:
        self._seen: set[Seen] = set()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        for seen in set(judge(event.command_name, dict(event.command))) - self._seen:
            self._seen.add(seen)
            print(PREFIX, seen.outcome, seen.kind, flush=True)  # noqa: T201 - this is its purpose

    def _ignore(self, event: Any) -> None:
        """Ignore the end of a command."""

    succeeded = failed = _ignore


def check_log(log: Path) -> None:
    """Fail if a command of this service was refused, or was broadcast and is not in the list."""
    seen = read_log(log)
    wrong = {one.kind for one in seen if one.outcome == REFUSED}
    wrong |= {one.kind for one in seen if one.outcome == BROADCAST} - listed_broadcasts()
    assert not wrong, f"{EXPLANATION}: {sorted(wrong)}"


def read_log(log: Path) -> set[Seen]:
    """Return the kinds of commands in the log of a service."""
    found = re.findall(rf"{PREFIX} (\w+) (\S+)", log.read_text(errors="replace"))
    return {Seen(kind, outcome) for outcome, kind in found}


def listed_broadcasts() -> set[str]:
    """Return the commands in the table of docs/scaling.md."""
    text = SCALING.read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+\.\w+\([\w,$]*\))` \|", text, re.MULTILINE))


def judge(name: str, command: Document) -> Iterator[Seen]:
    """Yield what a router does with each part of a command to the sharded collections."""
    collection = str(command.get(name))
    if name == "aggregate":
        yield from _judge_pipeline(collection, command["pipeline"])
    elif collection in SHARD_KEYS and name not in OTHER_COMMANDS:
        key = SHARD_KEYS[collection]
        for wanted, outcome in _judge_command(name, command, key):
            yield Seen(f"{collection}.{name}({_fields(wanted)})", outcome)


def _judge_command(name: str, command: Document, key: str) -> Iterator[tuple[Document, str]]:
    """Yield each filter of a command and its outcome. A command that is not known is refused."""
    match name:
        case "find":
            wanted = command["filter"]
            yield wanted, TARGETED if _names(wanted, key) else BROADCAST
        case "insert":
            for document in command["documents"]:
                yield {}, TARGETED if key in document else REFUSED
        case "findAndModify":
            yield command["query"], TARGETED if _equals(command["query"], key) else REFUSED
        case "update" | "delete":
            for change in command[f"{name}s"]:
                is_update_of_many = change.get("multi", False) and not change.get("upsert", False)
                is_many = is_update_of_many or change.get("limit") == 0
                yield change["q"], _outcome_of_change(change["q"], key, is_many=is_many)
        case _:
            yield {}, REFUSED


def _outcome_of_change(wanted: Document, key: str, *, is_many: bool) -> str:
    """A change of one document must name its shard key. A change of many is sent to all shards."""
    if _equals(wanted, key) or (is_many and _names(wanted, key)):
        return TARGETED
    return BROADCAST if is_many else REFUSED


def _judge_pipeline(collection: str, pipeline: list[Document]) -> Iterator[Seen]:
    """Judge an aggregation, and what its stages read from other collections."""
    if key := SHARD_KEYS.get(collection):
        wanted = pipeline[0].get("$match", {}) if pipeline else {}
        outcome = TARGETED if _names(wanted, key) else BROADCAST
        yield Seen(f"{collection}.aggregate({_fields(wanted)})", outcome)
    for stage in pipeline:
        if lookup := stage.get("$lookup"):
            source, field = str(lookup["from"]), lookup.get("foreignField", "")
            if source in SHARD_KEYS:
                is_targeted = field == SHARD_KEYS[source]
                yield Seen(f"{source}.lookup({field})", TARGETED if is_targeted else BROADCAST)
        for other in {"$unionWith", "$graphLookup", "$merge", "$out"} & stage.keys():
            yield Seen(f"{collection}.aggregate({other})", REFUSED)


def _fields(wanted: Document) -> str:
    """Return the fields of a filter. A reaction counts as the field `reactions`."""
    return ",".join(sorted({field.partition(".")[0] for field in wanted}))


def _equals(wanted: Document, key: str) -> bool:
    """Return whether a filter asks for one value of the shard key."""
    value = wanted.get(key)
    return "$eq" in value if isinstance(value, dict) else value is not None


def _names(wanted: Document, key: str) -> bool:
    """Return whether a filter asks for certain values of the shard key."""
    value, alternatives = wanted.get(key), wanted.get("$or", [])
    is_one_of = isinstance(value, dict) and "$in" in value
    return (
        is_one_of
        or _equals(wanted, key)
        or (bool(alternatives) and all(_names(one, key) for one in alternatives))
    )
