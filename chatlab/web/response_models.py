"""The JSON of successful responses. FastAPI serializes with these models and shows them in OpenAPI.

Their fields have the names and the order of the JSON.
"""

from typing import Annotated

import msgspec
from pydantic import BaseModel, InstanceOf, PlainSerializer, WithJsonSchema

from chatlab.domain.message import Message
from chatlab.settings import CacheMode

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]

# A message remains the struct of the domain, so it has the same JSON everywhere.
MessageModel = Annotated[
    InstanceOf[Message],
    PlainSerializer(msgspec.to_builtins),
    WithJsonSchema(msgspec.json.schema_components([Message])[1]["Message"]),
]


class User(BaseModel):
    id: str
    displayName: str
    createdAt: Time


class Session(BaseModel):
    user: User
    token: str


class LogInSession(BaseModel):
    """`lastUsedAt` is exact to ten minutes. `current`: the session of this request."""

    id: str
    createdAt: Time
    lastUsedAt: Time
    userAgent: str
    current: bool


class State(BaseModel):
    """`readUpTo` is the `seq` up to which the other user has read the conversation.

    `unread` counts among the newest 1,000 messages. `muted` and `blocked`: whether you have muted
    or blocked the other user. `deleted`: the other user has deleted the account.
    """

    online: bool
    unread: int
    lastMessage: MessageModel | None
    readUpTo: int
    muted: bool
    blocked: bool
    deleted: bool


class Contact(State, User):
    pass


class ConversationRow(State):
    user: User
    conversation: str
    lastMessage: MessageModel


class Conversations(BaseModel):
    """`next` is the `before` of the next page, or null on the last one."""

    items: list[ConversationRow]
    next: str | None


class LabState(BaseModel):
    """Current settings, those at start-up, and whether this client may change them.

    `role`: `presenter` or `viewer`, who may only watch. `viewerKey` opens the page for viewers.
    `users`: those of the page. `sweeper`: `here`, or which other process
    sweeps, whose sweeps this process does not see.
    """

    cacheTtl: float
    cacheMode: CacheMode
    usualTtl: float
    usualMode: CacheMode
    canTurn: bool
    role: str
    viewerKey: str | None
    users: list[User]
    sweeper: str


class LabKeys(BaseModel):
    """Live keys with their remaining milliseconds; `at` is in milliseconds since 1970."""

    at: float
    keys: dict[str, int] | None
    live: int
    settings: LabState


class LabValue(BaseModel):
    """The value of a key: one line for a string, and one for each element of a list."""

    type: str
    value: list[str]
