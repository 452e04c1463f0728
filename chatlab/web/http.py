"""The routes of users and messages. FastAPI parses requests and serializes what endpoints return.

`sockets` does the same for Socket.IO, and `account_routes` has the routes of accounts. None of them
uses the store or the cache directly.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from chatlab import metrics
from chatlab.connections.mongo import Document
from chatlab.domain.message import Message
from chatlab.domain.requests import (
    ConversationsPage,
    Emoji,
    Handle,
    MessageId,
    NewText,
    Page,
    ReadUpTo,
    Search,
    Send,
    UsersPage,
)
from chatlab.domain.trace import Trace
from chatlab.web.dependencies import (
    ContactsDep,
    CurrentUser,
    ServiceDep,
    TraceDep,
    body_of,
    describe_body,
    forbid_storing,
)
from chatlab.web.problems import ERROR_RESPONSES
from chatlab.web.response_models import Contact, Conversations, MessageModel
from chatlab.web.responses import X_CACHE, history_response

routes = APIRouter(prefix="/api", dependencies=[Depends(forbid_storing)], responses=ERROR_RESPONSES)
NO_CONTENT: dict[str, Any] = {"status_code": 204, "response_class": Response}

# --- conversations and users --------------------------------------------------------------------


@routes.get("/conversations", response_model=Conversations)
async def conversations(
    user: CurrentUser, page: Annotated[ConversationsPage, Query()], contacts: ContactsDep
) -> Document:
    """Return your conversations, the newest first."""
    return await contacts.conversations(user, page)


@routes.get("/users", response_model=list[Contact])
async def users(
    user: CurrentUser, page: Annotated[UsersPage, Query()], contacts: ContactsDep
) -> list[Document]:
    """Return a page of the other users.

    With `query`, those whose id or display name begins with it, whatever the accents and capitals.
    Without, your conversation partners come first, the most recent one first.
    """
    return await contacts.users(user, page)


@routes.put("/users/{userId}/block", **NO_CONTENT)
async def block(user: CurrentUser, userId: Handle, service: ServiceDep) -> None:
    """Refuse messages, edits, reactions and "typing" of a user.

    For the blocked user you seem not to exist: a send gets 404. This holds at once in this process
    and within 5 s in all others. Earlier messages stay.
    """
    await service.block(user, userId)


@routes.delete("/users/{userId}/block", **NO_CONTENT)
async def unblock(user: CurrentUser, userId: Handle, service: ServiceDep) -> None:
    """Accept messages of a user again."""
    await service.unblock(user, userId)


@routes.put("/users/{userId}/mute", **NO_CONTENT)
async def mute(user: CurrentUser, userId: Handle, service: ServiceDep) -> None:
    """Store that you want no notices of new messages of a user. The messages still arrive."""
    await service.mute(user, userId)


@routes.delete("/users/{userId}/mute", **NO_CONTENT)
async def unmute(user: CurrentUser, userId: Handle, service: ServiceDep) -> None:
    """Store that you want notices of new messages of a user again."""
    await service.unmute(user, userId)


# --- messages: `fast_path` calls the first two endpoints directly -------------------------------


@routes.post("/messages/send", openapi_extra=describe_body(Send))
async def send(
    trace: TraceDep, user: CurrentUser, asked: Annotated[Send, body_of(Send)], service: ServiceDep
) -> MessageModel:
    """Save a message, cache it, and emit it. A `clientId` makes a repeated send harmless."""
    trace.record("request", user=user)
    message = await service.send(
        user, asked.receiverId, asked.text, asked.clientId, trace, reply_to=asked.replyTo
    )
    metrics.SENDS["http"].inc()
    return record_respond(message, trace)


@routes.get(
    "/messages/{userId}",
    response_model=list[MessageModel],
    responses={200: {"headers": X_CACHE}},
)
async def read(
    trace: TraceDep,
    user: CurrentUser,
    userId: Handle,
    page: Annotated[Page, Query()],
    service: ServiceDep,
    cache_control: Annotated[str, Header(description="`no-cache` bypasses Redis")] = "",
) -> Response:
    """Return a conversation, oldest message first; without `limit` the full history.

    The messages of a conversation have the `seq` 1, 2, 3 and so on, without gaps; a deleted one
    keeps its place. `before` and `after` are exclusive. The header
    `X-Cache` says where the messages came from.
    """
    trace.record("request", user=user)
    fresh = "no-cache" in cache_control.lower()
    history = await service.read(user, userId, page, fresh=fresh, trace=trace)
    response = await history_response(history)
    trace.record("respond", cache=history.outcome)
    return response


@routes.get("/messages/{userId}/search", response_model=list[MessageModel])
async def search(
    trace: TraceDep,
    user: CurrentUser,
    userId: Handle,
    asked: Annotated[Search, Query()],
    service: ServiceDep,
) -> list[Message]:
    """Return the messages of a conversation that contain a text, newest first.

    For more of them, ask again with the lowest `seq` of the response as `before`.
    """
    trace.record("request")
    return await service.search(user, userId, asked)


@routes.get("/messages/{userId}/{messageId}")
async def read_one(
    trace: TraceDep, user: CurrentUser, userId: Handle, messageId: MessageId, service: ServiceDep
) -> MessageModel:
    """Return one message of a conversation, for example the one that a `replyTo` names."""
    trace.record("request")
    return record_respond(await service.read_one(user, userId, messageId), trace)


@routes.patch("/messages/{messageId}", openapi_extra=describe_body(NewText))
async def edit(
    trace: TraceDep,
    user: CurrentUser,
    messageId: MessageId,
    asked: Annotated[NewText, body_of(NewText)],
    service: ServiceDep,
) -> MessageModel:
    """Replace the text of a message (sender only)."""
    trace.record("request", user=user)
    return record_respond(await service.edit(user, messageId, asked.text, trace), trace)


@routes.delete("/messages/{messageId}")
async def delete(
    trace: TraceDep, user: CurrentUser, messageId: MessageId, service: ServiceDep
) -> MessageModel:
    """Delete the text of a message; the message keeps its place (sender only)."""
    trace.record("request", user=user)
    return record_respond(await service.delete(user, messageId, trace), trace)


@routes.put("/messages/{messageId}/reactions/{emoji}")
async def react(
    trace: TraceDep, user: CurrentUser, messageId: MessageId, emoji: Emoji, service: ServiceDep
) -> MessageModel:
    """Add the user's reaction to a message (participants only)."""
    trace.record("request", user=user)
    return record_respond(await service.react(user, messageId, emoji, trace), trace)


@routes.delete("/messages/{messageId}/reactions/{emoji}")
async def unreact(
    trace: TraceDep, user: CurrentUser, messageId: MessageId, emoji: Emoji, service: ServiceDep
) -> MessageModel:
    """Remove the user's reaction from a message (participants only)."""
    trace.record("request", user=user)
    return record_respond(await service.unreact(user, messageId, emoji, trace), trace)


@routes.post("/messages/{userId}/read", openapi_extra=describe_body(ReadUpTo), **NO_CONTENT)
async def mark_read(
    trace: TraceDep,
    user: CurrentUser,
    userId: Handle,
    asked: Annotated[ReadUpTo, body_of(ReadUpTo)],
    service: ServiceDep,
) -> None:
    """Mark all messages of a conversation up to `seq` as read.

    A `seq` above that of the newest message is invalid. A lower one than before changes nothing.
    """
    trace.record("request", user=user)
    await service.mark_read(user, userId, asked.seq)


def record_respond(message: Message, trace: Trace) -> Message:
    """Record the stage, and return the message, which FastAPI or the fast path responds with."""
    trace.record("respond", messageId=message.id)
    return message
