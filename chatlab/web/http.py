"""The routes under `/api`. FastAPI parses the request and serializes what the endpoint returns.

`sockets` does the same for Socket.IO. Neither module uses the store or the cache directly.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response

from chatlab import metrics
from chatlab.connections.mongo import Document
from chatlab.domain.message import Message
from chatlab.domain.requests import (
    Emoji,
    Handle,
    LogIn,
    MessageId,
    NewText,
    Page,
    ReadUpTo,
    Send,
    SignUp,
)
from chatlab.domain.trace import Trace
from chatlab.web.dependencies import (
    AccountsDep,
    ClientAddress,
    CurrentUser,
    ServiceDep,
    SessionsDep,
    Token,
    TraceDep,
    body_of,
    current_user,
    describe_body,
    forbid_storing,
)
from chatlab.web.problems import ERROR_RESPONSES
from chatlab.web.response_models import Contact, MessageModel, Session, User
from chatlab.web.responses import X_CACHE, history_response

routes = APIRouter(prefix="/api", dependencies=[Depends(forbid_storing)], responses=ERROR_RESPONSES)

# --- accounts -----------------------------------------------------------------------------------


@routes.post(
    "/auth/signup", status_code=201, response_model=Session, openapi_extra=describe_body(SignUp)
)
async def sign_up(
    asked: Annotated[SignUp, body_of(SignUp)], address: ClientAddress, accounts: AccountsDep
) -> Document:
    """Create a user and a session."""
    return await accounts.sign_up(asked, address)


@routes.post("/auth/login", response_model=Session, openapi_extra=describe_body(LogIn))
async def log_in(
    asked: Annotated[LogIn, body_of(LogIn)], address: ClientAddress, accounts: AccountsDep
) -> Document:
    """Create a session for an existing user.

    With a `deviceId` that was part of an earlier sign-up or log-in to this account, failed log-ins
    from elsewhere do not delay this one.
    """
    return await accounts.log_in(asked, address)


@routes.post(
    "/auth/logout", status_code=204, response_class=Response, dependencies=[Depends(current_user)]
)
async def log_out(token: Token, accounts: AccountsDep, sessions: SessionsDep) -> None:
    """End the session of the token, and close its sockets."""
    await accounts.log_out(token)
    await sessions.end(token)


@routes.get("/auth/me", response_model=User)
async def me(user: CurrentUser, accounts: AccountsDep) -> Document:
    """Return the user that the token belongs to."""
    return await accounts.profile(user)


@routes.get("/users", response_model=list[Contact])
async def users(user: CurrentUser, service: ServiceDep) -> list[Document]:
    """Return the other users, the most recent conversation first."""
    return await service.contacts(user)


# --- messages: `fast_path` calls the first two endpoints directly -------------------------------


@routes.post("/messages/send", openapi_extra=describe_body(Send))
async def send(
    trace: TraceDep, user: CurrentUser, asked: Annotated[Send, body_of(Send)], service: ServiceDep
) -> MessageModel:
    """Save a message, cache it, and emit it. A `clientId` makes a repeated send harmless."""
    trace.record("request")
    message = await service.send(user, asked.receiverId, asked.text, asked.clientId, trace)
    metrics.SENDS["http"].inc()
    return respond(message, trace)


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
    trace.record("request")
    fresh = "no-cache" in cache_control.lower()
    history = await service.read(user, userId, page, fresh=fresh, trace=trace)
    response = await history_response(history)
    trace.record("respond", cache=history.outcome)
    return response


@routes.patch("/messages/{messageId}", openapi_extra=describe_body(NewText))
async def edit(
    trace: TraceDep,
    user: CurrentUser,
    messageId: MessageId,
    asked: Annotated[NewText, body_of(NewText)],
    service: ServiceDep,
) -> MessageModel:
    """Replace the text of a message (sender only)."""
    trace.record("request")
    return respond(await service.edit(user, messageId, asked.text, trace), trace)


@routes.delete("/messages/{messageId}")
async def delete(
    trace: TraceDep, user: CurrentUser, messageId: MessageId, service: ServiceDep
) -> MessageModel:
    """Delete the text of a message; the message keeps its place (sender only)."""
    trace.record("request")
    return respond(await service.delete(user, messageId, trace), trace)


@routes.put("/messages/{messageId}/reactions/{emoji}")
async def react(
    trace: TraceDep, user: CurrentUser, messageId: MessageId, emoji: Emoji, service: ServiceDep
) -> MessageModel:
    """Add the user's reaction to a message (participants only)."""
    trace.record("request")
    return respond(await service.react(user, messageId, emoji, trace), trace)


@routes.delete("/messages/{messageId}/reactions/{emoji}")
async def unreact(
    trace: TraceDep, user: CurrentUser, messageId: MessageId, emoji: Emoji, service: ServiceDep
) -> MessageModel:
    """Remove the user's reaction from a message (participants only)."""
    trace.record("request")
    return respond(await service.unreact(user, messageId, emoji, trace), trace)


@routes.post(
    "/messages/{userId}/read",
    status_code=204,
    response_class=Response,
    openapi_extra=describe_body(ReadUpTo),
)
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
    trace.record("request")
    await service.mark_read(user, userId, asked.seq)


def respond(message: Message, trace: Trace) -> Message:
    trace.record("respond", messageId=message.id)
    return message
