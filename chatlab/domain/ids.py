"""Who talks to whom: user ids and the one rule that turns two of them into a conversation. Knows nothing else."""

from typing import NewType

UserId = NewType("UserId", str)
Conversation = NewType("Conversation", str)

USER_ID = r"^[a-z0-9][a-z0-9_-]{0,31}$"


def conversation_of(one: str, other: str) -> Conversation:
    """The conversation of two users: both ids, sorted as strings (never as numbers), joined by `:`."""
    return Conversation(f"{one}:{other}" if one <= other else f"{other}:{one}")


def participants_of(conversation: str) -> tuple[UserId, ...]:
    """The one or two users of a conversation (one, when a user writes to themself)."""
    one, other = conversation.split(":")
    return (UserId(one),) if one == other else (UserId(one), UserId(other))
