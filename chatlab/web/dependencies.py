"""What FastAPI passes to endpoints: the user, the JSON body, the trace, and parts of the service.

`fast_path` calls `bearer_token`, `header` and `read_body` itself.
"""

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import ClientDisconnect

from chatlab.accounts import Accounts
from chatlab.cache.cache import Cache
from chatlab.contacts import Contacts
from chatlab.domain.ids import UserId
from chatlab.domain.requests import Request as RequestModel
from chatlab.domain.trace import EventBus, Trace
from chatlab.errors import TooLarge, Unauthenticated, UnsupportedMediaType
from chatlab.service import Service
from chatlab.sessions import Sessions
from chatlab.settings import Settings
from chatlab.stage_users import StageUsers
from chatlab.store.store import Store
from chatlab.web.connection_limits import note_authenticated
from chatlab.web.socket_sessions import SocketSessions
from chatlab.web.stopping import Drain

Model = TypeVar("Model", bound=RequestModel)

# A body that is too large is read up to this multiple of the limit before the server answers 413.
# A client whose connection is closed while it still writes does not see the response.
MAX_READ_FACTOR = 16
JSON_TYPE = "application/json"
HEADERS = "chatlab.headers"  # of the ASGI scope: the headers as a dictionary


# --- parts of the service -----------------------------------------------------------------------


def _part(name: str) -> Any:
    """Return a dependency on an attribute of `app.state`, which the lifespan of the app sets."""

    async def find(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(find)


AccountsDep = Annotated[Accounts, _part("accounts")]
ContactsDep = Annotated[Contacts, _part("contacts")]
CacheDep = Annotated[Cache, _part("cache")]
DrainDep = Annotated[Drain, _part("drain")]
EventsDep = Annotated[EventBus, _part("events")]
StageDep = Annotated[StageUsers, _part("stage_users")]
ServiceDep = Annotated[Service, _part("service")]
SessionsDep = Annotated[Sessions, _part("sessions")]
SettingsDep = Annotated[Settings, _part("settings")]
SocketSessionsDep = Annotated[SocketSessions, _part("socket_sessions")]
StoreDep = Annotated[Store, _part("store")]


# --- the user -----------------------------------------------------------------------------------


def bearer_token(request: Request) -> str:
    """Return the token of the `Authorization` header. Raises Unauthenticated without one."""
    scheme, _, token = header(request, b"authorization").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(
            "A header `Authorization: Bearer <token>` is needed; log in to get a token."
        )
    return token.strip()


def header(request: Request, name: bytes) -> str:
    """Return the value of a header, or an empty string. `name` is in lower case.

    Starlette's own mapping costs 4 us for each request.
    """
    headers: dict[bytes, bytes] = request.scope[HEADERS]
    return headers.get(name, b"").decode("latin-1")


class BearerScheme(SecurityBase):
    """FastAPI's `HTTPBearer` in OpenAPI, but an error says what the request lacks."""

    model, scheme_name = HTTPBearer(), "bearer"

    async def __call__(self, request: Request) -> str:
        return bearer_token(request)


Token = Annotated[str, Depends(BearerScheme())]


async def current_user(request: Request, token: Token, sessions: SessionsDep) -> UserId:
    """Return the user of the bearer token; the request counts towards the user's rate limit.

    Raises Unauthenticated, RateLimited.
    """
    user = await sessions.admit(token)
    note_authenticated(request.scope)
    return user


CurrentUser = Annotated[UserId, Depends(current_user)]


async def client_address(request: Request) -> str:
    return request.client.host if request.client else ""


ClientAddress = Annotated[str, Depends(client_address)]


async def user_agent(request: Request) -> str:
    return header(request, b"user-agent")


UserAgent = Annotated[str, Depends(user_agent)]


# --- the body -----------------------------------------------------------------------------------


def body_of(model: type[Model]) -> Any:
    """Return a dependency that reads the body as JSON and validates it.

    Raises UnsupportedMediaType, TooLarge, Invalid.

    A dependency, and not a body parameter of FastAPI: FastAPI reads a body before it calls the
    dependencies, so also for a client without a valid token, and it accepts what is not JSON,
    such as NaN. `describe_body` adds the body to OpenAPI.
    """

    async def parse(request: Request, settings: SettingsDep) -> Model:
        return model.from_json(await read_body(request, settings.max_body))

    return Depends(parse)


def describe_body(model: type[RequestModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of an endpoint with a dependency `body_of(model)`."""
    content = {JSON_TYPE: {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the JSON body. Only the part within the limit is kept in memory.

    Raises UnsupportedMediaType without the content type of JSON: a browser sends any other body for
    a page of another origin without asking the service first. Raises TooLarge.
    """
    content_type = header(request, b"content-type")
    if content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        raise UnsupportedMediaType(f"A body needs the header `Content-Type: {JSON_TYPE}`.")
    pieces, size, has_more = [], 0, True
    while has_more and size <= MAX_READ_FACTOR * max_bytes:
        message = await request.receive()  # `request.stream()` would cost 1 us more
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece, has_more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size <= max_bytes:
            pieces.append(piece)
    if size > max_bytes:
        raise TooLarge(f"The body has more than {max_bytes} bytes.")
    return b"".join(pieces)


# --- traces and headers -------------------------------------------------------------------------


async def start_trace(events: EventsDep) -> Trace:
    return events.start_trace("http")


TraceDep = Annotated[Trace, Depends(start_trace)]


async def forbid_storing(response: Response) -> None:
    """Tell browsers and proxies not to store the response."""
    response.headers["cache-control"] = "no-store"
