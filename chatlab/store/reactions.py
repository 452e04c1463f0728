"""Add and remove a reaction in one update, so that concurrent requests cannot break its limits."""

from typing import NamedTuple

from chatlab.connections.mongo import Document
from chatlab.domain.emoji_spelling import without_selectors
from chatlab.domain.ids import UserId

MAX_REACTION_KINDS = 50  # per message: every version of a message carries all its reactions

_KINDS = {"$objectToArray": {"$ifNull": ["$reactions", {}]}}  # documents may lack the field


class ReactionUpdate(NamedTuple):
    """Arguments of `MessageStore.change`."""

    condition: Document
    change: Document | list[Document]


def add_reaction(emoji: str, user: UserId) -> ReactionUpdate:
    """Add the user to the reactions with this emoji, unless the message has too many kinds."""
    fields = [f"reactions.{spelling}" for spelling in _spellings(emoji)]
    has_this_kind = [{f"{field}.0": {"$exists": True}} for field in fields]
    # Documents of older versions may have emptied kinds.
    filled = {"$filter": {"input": _KINDS, "cond": {"$ne": ["$$this.v", []]}}}
    has_room = {"$expr": {"$lt": [{"$size": filled}, MAX_REACTION_KINDS]}}
    condition = {field: {"$ne": user} for field in fields}
    return ReactionUpdate(
        {**condition, "$or": [*has_this_kind, has_room]}, {"$push": {f"reactions.{emoji}": user}}
    )


def remove_reaction(emoji: str, user: UserId) -> ReactionUpdate:
    """Remove the user from the reactions with this emoji, and kinds that have no users then."""
    spellings = _spellings(emoji)
    is_other_kind = {"$not": [{"$in": ["$$kind.k", spellings]}]}
    keeps_user = {"$or": [is_other_kind, {"$ne": ["$$user", user]}]}
    users = {"$filter": {"input": "$$kind.v", "as": "user", "cond": keeps_user}}
    kinds = {"$map": {"input": _KINDS, "as": "kind", "in": {"k": "$$kind.k", "v": users}}}
    filled = {"$filter": {"input": kinds, "cond": {"$ne": ["$$this.v", []]}}}
    change = [{"$set": {"reactions": {"$arrayToObject": filled}}}]
    return ReactionUpdate({"$or": [{f"reactions.{one}": user} for one in spellings]}, change)


def _spellings(emoji: str) -> list[str]:
    """Return how this emoji may be stored: older versions stored it as the client had sent it."""
    return sorted({emoji, without_selectors(emoji)})
