"""Compare each operation with and without the cache: one user, one request at a time, in turn.

The variants take turns, so whatever else the machine does affects all of them alike. The results
are samples; `claims` judges them.
"""

import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from chatlab.bench.claims import GET, SEND, UPDATE, Comparison
from chatlab.bench.raw_http import RawHttpClient, Reply
from chatlab.errors import EngineError

WARM_UP_TURNS = 20  # not counted
SHORT_MESSAGES, LONG_MESSAGES = 50, 500  # lengths of the two conversations that are read
NARROW_WINDOW = 100  # messages: too few for the long conversation
TEXT = "as good as any other text of this length " * 3
THUMBS_UP = "%F0%9F%91%8D"

SendRequest = Callable[[], Reply]


class Variant(NamedTuple):
    """A service with a certain cache setting.

    The user sends to `partner`, which differs between variants. All variants read the same two
    conversations, those with the users `short` and `long`.
    """

    client: RawHttpClient
    partner: str


# "off": without cache; "window": as shipped; "narrow": with a window of NARROW_WINDOW messages.
Variants = Mapping[str, Variant]


def alternate(requests: Mapping[str, SendRequest], seconds: float) -> dict[str, list[Reply]]:
    """Send one request to each variant, again and again, for `seconds`.

    The order is reversed after each turn. Raises EngineError if a reply is not 200.
    """
    replies: dict[str, list[Reply]] = {name: [] for name in requests}
    order, turn, end = list(requests), 0, time.monotonic() + seconds
    while turn <= WARM_UP_TURNS or time.monotonic() < end:
        for name in order:
            reply = requests[name]()
            if reply.status != 200:
                raise EngineError(
                    f"The service answered a request of the benchmark with {reply.status}.",
                    "chatlab doctor",
                )
            if turn >= WARM_UP_TURNS:
                replies[name].append(reply)
        order, turn = order[::-1], turn + 1
    return replies


def compare_sends(variants: Variants, seconds: float) -> list[Comparison]:
    requests = {
        name: make_send(variant.client, variant.partner)
        for name, variant in _off_and_window(variants)
    }
    replies = alternate(requests, seconds)
    condition = "saved with majority and journal in both cases"
    return [
        Comparison(SEND, condition, _times_ms(replies["off"]), _times_ms(replies["window"]), (1, 1))
    ]


def compare_short_reads(variants: Variants, seconds: float) -> list[Comparison]:
    _fill_conversation(variants["off"], "short", SHORT_MESSAGES)
    path = f"/api/messages/short?limit={SHORT_MESSAGES}"
    requests = {name: _make_read(variant, path) for name, variant in _off_and_window(variants)}
    replies = alternate(requests, seconds)
    return [
        _read_comparison(f"{SHORT_MESSAGES} messages", replies["off"], replies["window"], "hit")
    ]


def compare_long_reads(variants: Variants, seconds: float) -> list[Comparison]:
    _fill_conversation(variants["off"], "long", LONG_MESSAGES)
    requests = {
        name: _make_read(variant, "/api/messages/long") for name, variant in variants.items()
    }
    replies = alternate(requests, seconds)
    narrow = f"{LONG_MESSAGES} messages, a window of {NARROW_WINDOW}"
    return [
        _read_comparison(narrow, replies["off"], replies["narrow"], "partial"),
        _read_comparison(f"{LONG_MESSAGES} messages", replies["off"], replies["window"], "hit"),
    ]


def compare_reactions(variants: Variants, seconds: float) -> list[Comparison]:
    requests = {name: _make_reaction(variant) for name, variant in _off_and_window(variants)}
    replies = alternate(requests, seconds)
    condition = "a reaction, added and removed in turn"
    return [
        Comparison(
            UPDATE, condition, _times_ms(replies["off"]), _times_ms(replies["window"]), (2, 1)
        )
    ]


# --- the requests ------------------------------------------------------------------------------


def make_send(client: RawHttpClient, receiver: str, text: str = TEXT) -> SendRequest:
    """Return a function that sends the same message each time it is called."""
    body = json.dumps({"receiverId": receiver, "text": text}).encode()
    return lambda: client.request("POST", "/api/messages/send", body)


def _make_read(variant: Variant, path: str) -> SendRequest:
    return lambda: variant.client.request("GET", path)


def _make_reaction(variant: Variant) -> SendRequest:
    message = json.loads(make_send(variant.client, variant.partner)().body)
    path, methods = (
        f"/api/messages/{message['_id']}/reactions/{THUMBS_UP}",
        itertools.cycle(("PUT", "DELETE")),
    )
    return lambda: variant.client.request(next(methods), path)


def _off_and_window(variants: Variants) -> list[tuple[str, Variant]]:
    return [(name, variants[name]) for name in ("off", "window")]


def _fill_conversation(variant: Variant, partner: str, messages: int) -> None:
    send = make_send(variant.client, partner)
    for _ in range(messages):
        send()


# --- the samples -------------------------------------------------------------------------------


def _times_ms(replies: list[Reply]) -> list[float]:
    return [reply.took_ms for reply in replies]


def _read_comparison(
    condition: str, without: list[Reply], with_cache: list[Reply], expected: str
) -> Comparison:
    """Compare reads, counting only cached replies with the expected X-Cache value.

    The window expires every 5 s, and the next read fills it. The condition gives the share of the
    replies that had the expected value.
    """
    expected_replies = [reply for reply in with_cache if reply.cache == expected]
    share = len(expected_replies) / len(with_cache)
    return Comparison(
        GET,
        f"{condition}; {share:.1%} of the replies had X-Cache: {expected}",
        _times_ms(without),
        _times_ms(expected_replies or with_cache),
        (1, 0 if expected == "hit" else 1),
    )
