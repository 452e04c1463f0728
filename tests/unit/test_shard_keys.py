"""The shard keys fit the indexes, and the check of the commands finds those that do not name one."""

from typing import Any

import pytest
import shard_keys
from shard_keys import BROADCAST, REFUSED, TARGETED, Seen

from chatlab.store.migrations import INDEXES
from chatlab.store.sharding import SHARD_KEYS

FIND, UPDATE, DELETE = "find", "update", "delete"


@pytest.mark.parametrize("name", INDEXES)
def test_every_unique_index_begins_with_the_shard_key(name: str) -> None:
    """Otherwise no shard could know what is unique, and MongoDB would refuse the shard key.

    A collection without a shard key is on one shard, so every index is allowed.
    """
    unique = [index.document["key"] for index in INDEXES[name] if index.document.get("unique")]
    assert {next(iter(key)) for key in unique} <= {SHARD_KEYS.get(name)} or name not in SHARD_KEYS


@pytest.mark.parametrize("name", SHARD_KEYS)
def test_an_index_serves_each_shard_key(name: str) -> None:
    """So a collection that has documents already can be distributed without another index."""
    indexes = INDEXES.get(name, [])
    total = [index for index in indexes if "partialFilterExpression" not in index.document]
    first_fields = {next(iter(index.document["key"])) for index in total}
    assert SHARD_KEYS[name] in first_fields | {"_id"}


A_B = {"conversation": "a:b"}


@pytest.mark.parametrize(
    ("name", "command", "seen"),
    [
        (FIND, {"filter": A_B}, Seen("messages.find(conversation)", TARGETED)),
        (
            FIND,
            {"filter": {"conversation": {"$in": ["a:b"]}, "_id": 1}},
            Seen("messages.find(_id,conversation)", TARGETED),
        ),
        (FIND, {"filter": {"$or": [A_B, A_B]}}, Seen("messages.find($or)", TARGETED)),
        (FIND, {"filter": {"$or": [A_B, {"_id": 1}]}}, Seen("messages.find($or)", BROADCAST)),
        (FIND, {"filter": {"_id": 1}}, Seen("messages.find(_id)", BROADCAST)),
        (FIND, {"filter": {}}, Seen("messages.find()", BROADCAST)),
        (
            FIND,
            {"filter": {"conversation": {"$gt": "a"}}},
            Seen("messages.find(conversation)", BROADCAST),
        ),
        ("findAndModify", {"query": {"_id": 1}}, Seen("messages.findAndModify(_id)", REFUSED)),
        (
            "findAndModify",
            {"query": A_B | {"_id": 1}},
            Seen("messages.findAndModify(_id,conversation)", TARGETED),
        ),
        ("insert", {"documents": [A_B]}, Seen("messages.insert()", TARGETED)),
        ("insert", {"documents": [{"_id": 1}]}, Seen("messages.insert()", REFUSED)),
        (UPDATE, {"updates": [{"q": {"_id": 1}}]}, Seen("messages.update(_id)", REFUSED)),
        (UPDATE, {"updates": [{"q": A_B}]}, Seen("messages.update(conversation)", TARGETED)),
        (
            UPDATE,
            {"updates": [{"q": {"seq": 1}, "multi": True}]},
            Seen("messages.update(seq)", BROADCAST),
        ),
        (
            DELETE,
            {"deletes": [{"q": {"_id": 1}, "limit": 1}]},
            Seen("messages.delete(_id)", REFUSED),
        ),
        (DELETE, {"deletes": [{"q": {}, "limit": 0}]}, Seen("messages.delete()", BROADCAST)),
        (
            "aggregate",
            {"pipeline": [{"$match": A_B}, {"$limit": 1}]},
            Seen("messages.aggregate(conversation)", TARGETED),
        ),
        ("aggregate", {"pipeline": [{"$limit": 1}]}, Seen("messages.aggregate()", BROADCAST)),
        ("distinct", {"query": A_B}, Seen("messages.distinct()", REFUSED)),
    ],
)
def test_a_command_is_judged_as_a_router_would(
    name: str, command: dict[str, Any], seen: Seen
) -> None:
    """A router needs the value of the shard key. It refuses to change one document without it."""
    assert list(shard_keys.judge(name, {name: "messages"} | command)) == [seen]


@pytest.mark.parametrize(("field", "outcome"), [("conversation", TARGETED), ("seq", BROADCAST)])
def test_a_lookup_is_judged_by_its_foreign_field(field: str, outcome: str) -> None:
    """An aggregation of the database may read sharded collections too."""
    lookup = {"from": "messages", "localField": "_id", "foreignField": field, "as": "found"}
    pipeline = [{"$documents": []}, {"$lookup": lookup}]
    seen = list(shard_keys.judge("aggregate", {"aggregate": 1, "pipeline": pipeline}))
    assert seen == [Seen(f"messages.lookup({field})", outcome)]


def test_other_collections_and_cursors_need_no_shard_key() -> None:
    """Collections without a shard key are on one shard. A cursor belongs to its shards."""
    assert list(shard_keys.judge("find", {"find": "meta", "filter": {}})) == []
    assert list(shard_keys.judge("getMore", {"getMore": 1, "collection": "messages"})) == []
