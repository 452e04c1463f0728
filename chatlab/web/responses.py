"""Build the successful HTTP responses: JSON values, one message, or a history."""

from collections.abc import AsyncIterator

import msgspec
from starlette.responses import Response, StreamingResponse

from chatlab import metrics
from chatlab.domain.message import Message
from chatlab.domain.trace import Trace
from chatlab.history import History
from chatlab.web.fast_path import FastJsonResponse

MAX_JOINED_PIECES = 2  # a history of more pieces is streamed
NO_STORE = {"cache-control": "no-store"}
X_CACHE_HEADERS = {outcome: (b"x-cache", outcome.encode()) for outcome in metrics.READS}


def json_response(value: object, status: int = 200) -> Response:
    body = msgspec.json.encode(value)
    return Response(body, status, headers=NO_STORE, media_type="application/json")


def message_response(message: Message, trace: Trace) -> Response:
    trace.record("respond", messageId=message.id)
    return FastJsonResponse(message.json)


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
    return StreamingResponse(
        _json_array(first, history.pieces),
        headers={"x-cache": history.outcome, **NO_STORE},
        media_type="application/json",
    )


async def _take(pieces: AsyncIterator[bytes], count: int) -> list[bytes]:
    """Return the next pieces, at most `count`."""
    taken: list[bytes] = []
    while len(taken) < count:
        try:
            taken.append(await anext(pieces))
        except StopAsyncIteration:
            break
    return taken


async def _json_array(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a JSON array of the elements in these pieces. A piece may be empty."""
    separator = b"["
    for piece in filter(None, first):
        yield separator + piece
        separator = b","
    async for piece in rest:
        if piece:
            yield separator + piece
            separator = b","
    yield b"[]" if separator == b"[" else b"]"
