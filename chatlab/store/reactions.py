"""Add and remove a reaction in one update, so that concurrent requests cannot break its limits."""

from typing import NamedTuple

from chatlab.connections.mongo import Document
from chatlab.domain.ids import UserId

MAX_REACTION_KINDS = 50  # per message: every version of a message carries all its reactions

_KINDS = {"$objectToArray": "$reactions"}


class ReactionUpdate(NamedTuple):
    """Arguments of `MessageStore.change`."""

    condition: Document
    change: Document | list[Document]


def add_reaction(emoji: str, user: UserId) -> ReactionUpdate:
    """Add the user to the reactions with this emoji, unless the message has too many kinds."""
    field = f"reactions.{emoji}"
    has_this_kind = {f"{field}.0": {"$exists": True}}
    # Documents of older versions may have emptied kinds.
    filled = {"$filter": {"input": _KINDS, "cond": {"$ne": ["$$this.v", []]}}}
    has_room = {"$expr": {"$lt": [{"$size": filled}, MAX_REACTION_KINDS]}}
    condition = {field: {"$ne": user}, "$or": [has_this_kind, has_room]}
    return ReactionUpdate(condition, {"$push": {field: user}})


def remove_reaction(emoji: str, user: UserId) -> ReactionUpdate:
    """Remove the user from the reactions with this emoji, and kinds that have no users then."""
    keeps_user = {"$or": [{"$ne": ["$$kind.k", emoji]}, {"$ne": ["$$user", user]}]}
    users = {"$filter": {"input": "$$kind.v", "as": "user", "cond": keeps_user}}
    kinds = {"$map": {"input": _KINDS, "as": "kind", "in": {"k": "$$kind.k", "v": users}}}
    filled = {"$filter": {"input": kinds, "cond": {"$ne": ["$$this.v", []]}}}
    change = [{"$set": {"reactions": {"$arrayToObject": filled}}}]
    return ReactionUpdate({f"reactions.{emoji}": user}, change)
