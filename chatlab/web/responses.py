"""Build the responses of the two busiest routes: one message, or a history."""

import contextlib
from collections.abc import AsyncGenerator

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from chatlab import metrics
from chatlab.history import History, Stream

MAX_JOINED_PIECES = 2  # a history of more pieces is streamed
JSON_HEADERS = [(b"cache-control", b"no-store"), (b"content-type", b"application/json")]
X_CACHE_HEADERS = {outcome: (b"x-cache", outcome.encode()) for outcome in metrics.READS}
X_CACHE = {  # for OpenAPI
    "X-Cache": {
        "description": "Where the messages came from: from Redis, from both servers, "
        "from MongoDB after a cache miss, from MongoDB without asking Redis, or from a secondary "
        "of MongoDB, which may lack the newest messages",
        "schema": {"enum": list(metrics.READS)},
    }
}


class FastJsonResponse(Response):
    """A response with status 200 and a JSON body.

    Its headers are bytes from the start. Starlette's own response encodes them, which costs 5 us.
    """

    def __init__(self, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [*headers, *JSON_HEADERS, (b"content-length", b"%d" % len(body))]


async def history_response(history: History) -> Response:
    """Return one complete response, or a stream when the history has many pieces.

    The first pieces are read before the status is sent, so an outage of MongoDB is still a 503.
    """
    if isinstance(history.pieces, bytes):
        return FastJsonResponse(b"[%b]" % history.pieces, X_CACHE_HEADERS[history.outcome])
    first = await _take(history.pieces, MAX_JOINED_PIECES + 1)
    if len(first) <= MAX_JOINED_PIECES:
        body = b"[%b]" % b",".join(filter(None, first))
        return FastJsonResponse(body, X_CACHE_HEADERS[history.outcome])
    return HistoryStream(
        _json_array(first, history.pieces),
        headers={"x-cache": history.outcome, "cache-control": "no-store"},
        media_type="application/json",
    )


class HistoryStream(StreamingResponse):
    """A streamed history. It ends the stream when the client is gone, which frees its slot."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert isinstance(self.body_iterator, AsyncGenerator)
        async with contextlib.aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


async def _take(pieces: Stream, count: int) -> list[bytes]:
    """Return the next pieces, at most `count`."""
    taken: list[bytes] = []
    while len(taken) < count:
        try:
            taken.append(await anext(pieces))
        except StopAsyncIteration:
            break
    return taken


async def _json_array(first: list[bytes], rest: Stream) -> Stream:
    """Yield a JSON array of the elements in these pieces. A piece may be empty.

    After each piece comes an empty one: the server sends nothing for it, but waits there until the
    client has taken most of what was sent. Only then is the next piece read from MongoDB.
    """
    separator = b"["
    async with contextlib.aclosing(rest):
        for piece in filter(None, first):
            yield separator + piece
            separator = b","
        yield b""
        async for piece in rest:
            if piece:
                yield separator + piece
                yield b""
                separator = b","
        yield b"[]" if separator == b"[" else b"]"
