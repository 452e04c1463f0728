"""Read what an HTTP request carries: its bearer token and its JSON body, up to a size limit."""

from typing import TypeVar

from starlette.requests import Request

from chatlab.accounts import Accounts
from chatlab.domain.ids import UserId
from chatlab.domain.requests import Request as RequestModel
from chatlab.errors import TooLarge, Unauthenticated

Model = TypeVar("Model", bound=RequestModel)

# A body that is too large is read up to this multiple of the limit before the server answers 413.
# A client whose connection is closed while it still writes does not see the response.
MAX_READ_FACTOR = 16


class RequestReader:
    """Authenticate requests and read their bodies of at most `max_body_bytes` bytes."""

    def __init__(self, accounts: Accounts, *, max_body_bytes: int) -> None:
        self._accounts, self._max_body_bytes = accounts, max_body_bytes

    async def authenticate(self, request: Request) -> UserId:
        """Return the user of the bearer token; the request counts towards the user's rate limit.

        Raises Unauthenticated, RateLimited.
        """
        return await self._accounts.admit(bearer_token(request))

    async def parse_body(self, model: type[Model], request: Request) -> Model:
        """Read the body as JSON and validate it. Raises Invalid, TooLarge."""
        return model.from_json(await self._read_body(request))

    async def _read_body(self, request: Request) -> bytes:
        """Return the body. Only the part within the limit is kept in memory. Raises TooLarge."""
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > MAX_READ_FACTOR * self._max_body_bytes:
                break
            if size <= self._max_body_bytes:
                pieces.append(piece)
        if size > self._max_body_bytes:
            raise TooLarge(f"The body has more than {self._max_body_bytes} bytes.")
        return b"".join(pieces)


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

    It searches the list of the ASGI scope: Starlette's mapping costs 4 us for each request.
    """
    headers = request.scope["headers"]
    return next((value.decode("latin-1") for key, value in headers if key == name), "")
