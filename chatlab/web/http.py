"""The routes under `/api`: parse the request, call the service, build the response.

`sockets` does the same for Socket.IO. Neither module uses the store or the cache directly.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from chatlab import metrics
from chatlab.accounts import Accounts
from chatlab.domain.ids import UserId
from chatlab.domain.requests import (
    LogIn,
    NewText,
    Page,
    Partner,
    React,
    ReadUpTo,
    Send,
    SignUp,
    Target,
)
from chatlab.domain.trace import EventBus, Trace
from chatlab.service import Service
from chatlab.web.fast_path import parse_page
from chatlab.web.openapi import (
    CONTACTS,
    MESSAGE,
    MESSAGES,
    SESSION,
    USER,
    X_CACHE,
    describe_route,
)
from chatlab.web.request_reader import Model, RequestReader, bearer_token, header
from chatlab.web.responses import history_response, json_response, message_response


class HttpApi:
    """The endpoints. `close_sockets` closes the sockets of a token whose session has ended."""

    def __init__(
        self,
        service: Service,
        accounts: Accounts,
        events: EventBus,
        reader: RequestReader,
        *,
        close_sockets: Callable[[str], Awaitable[None]],
    ) -> None:
        self._service, self._accounts, self._events = service, accounts, events
        self._reader, self._close_sockets = reader, close_sockets

    def router(self) -> APIRouter:
        """Return all routes with their OpenAPI descriptions."""
        routes = APIRouter(prefix="/api")

        def route(method: str, path: str, endpoint: Callable[..., Any], **description: Any) -> None:
            routes.add_api_route(
                path,
                endpoint,
                methods=[method],
                response_model=None,
                **describe_route(path, **description),
            )

        partner, message = "/messages/{userId}", "/messages/{messageId}"
        reaction = "/messages/{messageId}/reactions/{emoji}"
        created = {"status": 201, "result": SESSION, "public": True}
        route("POST", "/auth/signup", self.sign_up, body=SignUp, **created)
        route("POST", "/auth/login", self.log_in, body=LogIn, result=SESSION, public=True)
        route("POST", "/auth/logout", self.log_out, status=204)
        route("GET", "/auth/me", self.me, result=USER)
        route("GET", "/users", self.users, result=CONTACTS)
        route("POST", "/messages/send", self.send, body=Send, result=MESSAGE)
        route("GET", partner, self.read, query=Page, result=MESSAGES, headers=X_CACHE)
        route("PATCH", message, self.edit, body=NewText, result=MESSAGE)
        route("DELETE", message, self.delete, result=MESSAGE)
        route("PUT", reaction, self.react, result=MESSAGE)
        route("DELETE", reaction, self.unreact, result=MESSAGE)
        route("POST", f"{partner}/read", self.mark_read, body=ReadUpTo, status=204)
        return routes

    # --- accounts ---------------------------------------------------------------------------

    async def sign_up(self, request: Request) -> Response:
        """Create a user and a session."""
        asked = await self._reader.parse_body(SignUp, request)
        return json_response(await self._accounts.sign_up(asked), 201)

    async def log_in(self, request: Request) -> Response:
        """Create a session for an existing user."""
        address = request.client.host if request.client else ""
        asked = await self._reader.parse_body(LogIn, request)
        return json_response(await self._accounts.log_in(asked, address))

    async def log_out(self, request: Request) -> Response:
        """End the session of the token, and close its sockets."""
        await self._reader.authenticate(request)
        await self._accounts.log_out(bearer_token(request))
        await self._close_sockets(bearer_token(request))
        return Response(status_code=204)

    async def me(self, request: Request) -> Response:
        """Return the user that the token belongs to."""
        user = await self._reader.authenticate(request)
        return json_response(await self._accounts.profile(user))

    async def users(self, request: Request) -> Response:
        """Return the other users, the most recent conversation first."""
        user = await self._reader.authenticate(request)
        return json_response(await self._service.contacts(user))

    # --- messages ---------------------------------------------------------------------------

    async def send(self, request: Request) -> Response:
        """Save a message, cache it, and emit it. A `clientId` makes a repeated send harmless."""
        trace = self._events.start_trace("http")
        user = await self._reader.authenticate(request)
        asked = await self._reader.parse_body(Send, request)
        trace.record("request")
        message = await self._service.send(
            user, asked.receiverId, asked.text, asked.clientId, trace
        )
        metrics.SENDS["http"].inc()
        return message_response(message, trace)

    async def read(self, request: Request) -> Response:
        """Return a conversation, oldest message first; without `limit` the full history.

        The header `X-Cache` says where the messages came from.
        """
        trace = self._events.start_trace("http")
        user = await self._reader.authenticate(request)
        partner = Partner.from_fields(**request.path_params)
        page = parse_page(request.scope["query_string"])
        trace.record("request")
        fresh = "no-cache" in header(request, b"cache-control").lower()
        history = await self._service.read(user, partner.userId, page, fresh=fresh, trace=trace)
        response = await history_response(history)
        trace.record("respond", cache=history.outcome)
        return response

    async def edit(self, request: Request) -> Response:
        """Replace the text of a message (sender only)."""
        trace, user, target = await self._begin(Target, request)
        text = (await self._reader.parse_body(NewText, request)).text
        message = await self._service.edit(user, target.messageId, text, trace)
        return message_response(message, trace)

    async def delete(self, request: Request) -> Response:
        """Delete the text of a message; the message keeps its place (sender only)."""
        trace, user, target = await self._begin(Target, request)
        message = await self._service.delete(user, target.messageId, trace)
        return message_response(message, trace)

    async def react(self, request: Request) -> Response:
        """Add the user's reaction to a message (participants only)."""
        trace, user, target = await self._begin(React, request)
        message = await self._service.react(user, target.messageId, target.emoji, trace)
        return message_response(message, trace)

    async def unreact(self, request: Request) -> Response:
        """Remove the user's reaction from a message (participants only)."""
        trace, user, target = await self._begin(React, request)
        message = await self._service.unreact(user, target.messageId, target.emoji, trace)
        return message_response(message, trace)

    async def mark_read(self, request: Request) -> Response:
        """Mark all messages of a conversation up to `seq` as read."""
        _, user, partner = await self._begin(Partner, request)
        seq = (await self._reader.parse_body(ReadUpTo, request)).seq
        await self._service.mark_read(user, partner.userId, seq)
        return Response(status_code=204)

    async def _begin(self, model: type[Model], request: Request) -> tuple[Trace, UserId, Model]:
        """Start a trace, authenticate the request, and validate its path parameters."""
        trace = self._events.start_trace("http")
        user = await self._reader.authenticate(request)
        parameters = model.from_fields(**request.path_params)
        trace.record("request")
        return trace, user, parameters
