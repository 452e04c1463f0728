"""User ids, and the rule that makes a conversation id from two of them."""

from typing import NewType

UserId = NewType("UserId", str)
Conversation = NewType("Conversation", str)

USER_ID = r"^[a-z0-9][a-z0-9_-]{0,31}$"


def conversation_of(one: str, other: str) -> Conversation:
    """Return the id of a conversation: both user ids, sorted as strings and joined by `:`.

    Never sort them as numbers: ids are names, and every name would become NaN.
    """
    return Conversation(f"{one}:{other}" if one <= other else f"{other}:{one}")


def other_of(user: UserId, conversation: str) -> UserId:
    """Return the other user of a conversation, or the user of a conversation with oneself."""
    participants = participants_of(conversation)
    return participants[0] if participants[-1] == user else participants[-1]


def participants_of(conversation: str) -> tuple[UserId, ...]:
    """Return the two users of a conversation, or the one user, if users write to themselves."""
    one, _, other = conversation.partition(":")
    return (UserId(one),) if one == other else (UserId(one), UserId(other))
