"""The races of `chatlab bench`: each operation with the cache and without, by one user, one request at a time, the sides in turn.

Whatever else the machine does meanwhile meets all sides alike. What comes out are samples; `claims` judges them.
"""

import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from chatlab.bench.claims import GET, SEND, UPDATE, Race
from chatlab.bench.wire import Reply, Wire
from chatlab.errors import EngineError

WARM = 20  # turns that do not count
SHORT, LONG = 50, 500  # messages of a conversation
NARROW = 100  # messages that a window holds which is too small for the long one
TEXT = "as good as any other text of this length " * 3

Act = Callable[[], Reply]


class Side(NamedTuple):
    """A service. Its user writes to a partner of its own; all sides read the same two conversations, with `short` and `long`."""

    wire: Wire
    partner: str


Sides = Mapping[str, Side]  # "off": no cache; "window": as shipped; "narrow": its window holds NARROW messages


def in_turn(acts: Mapping[str, Act], seconds: float) -> dict[str, list[Reply]]:
    """Each side once, again and again, for so many seconds; who begins changes with every turn."""
    replies: dict[str, list[Reply]] = {name: [] for name in acts}
    order, turn, until = list(acts), 0, time.monotonic() + seconds
    while turn <= WARM or time.monotonic() < until:
        for name in order:
            reply = acts[name]()
            if reply.status != 200:
                raise EngineError(f"The service answered a request of the benchmark with {reply.status}.", "chatlab doctor")
            if turn >= WARM:
                replies[name].append(reply)
        order, turn = order[::-1], turn + 1
    return replies


def sends(sides: Sides, seconds: float) -> list[Race]:
    replies = in_turn({name: sending(side.wire, side.partner) for name, side in _two(sides)}, seconds)
    return [Race(SEND, "saved with majority and journal on both sides", _times(replies["off"]), _times(replies["window"]), (1, 1))]


def short_reads(sides: Sides, seconds: float) -> list[Race]:
    _talk(sides["off"], "short", SHORT)
    replies = in_turn({name: _reading(side, f"/api/messages/short?limit={SHORT}") for name, side in _two(sides)}, seconds)
    return [_read_race(f"{SHORT} messages", replies["off"], replies["window"], "hit")]


def long_reads(sides: Sides, seconds: float) -> list[Race]:
    _talk(sides["off"], "long", LONG)
    replies = in_turn({name: _reading(side, "/api/messages/long") for name, side in sides.items()}, seconds)
    return [
        _read_race(f"{LONG} messages, the window holds {NARROW} of them", replies["off"], replies["narrow"], "partial"),
        _read_race(f"{LONG} messages", replies["off"], replies["window"], "hit"),
    ]


def reactions(sides: Sides, seconds: float) -> list[Race]:
    replies = in_turn({name: _reacting(side) for name, side in _two(sides)}, seconds)
    return [Race(UPDATE, "a reaction, set and taken back in turn", _times(replies["off"]), _times(replies["window"]), (2, 1))]


# --- one request -------------------------------------------------------------------------------------------------------------------


def sending(wire: Wire, receiver: str, text: str = TEXT) -> Act:
    body = json.dumps({"receiverId": receiver, "text": text}).encode()
    return lambda: wire.ask("POST", "/api/messages/send", body)


def _reading(side: Side, path: str) -> Act:
    return lambda: side.wire.ask("GET", path)


def _reacting(side: Side) -> Act:
    message = json.loads(sending(side.wire, side.partner)().body)
    path, methods = f"/api/messages/{message['_id']}/reactions/%F0%9F%91%8D", itertools.cycle(("PUT", "DELETE"))
    return lambda: side.wire.ask(next(methods), path)


# --- what is made of the replies ---------------------------------------------------------------------------------------------------


def _two(sides: Sides) -> list[tuple[str, Side]]:
    return [(name, sides[name]) for name in ("off", "window")]


def _talk(side: Side, partner: str, messages: int) -> None:
    send = sending(side.wire, partner)
    for _ in range(messages):
        send()


def _times(replies: list[Reply]) -> list[float]:
    return [reply.took_ms for reply in replies]


def _read_race(condition: str, without: list[Reply], with_cache: list[Reply], wanted: str) -> Race:
    """The window ends every 5 s, and one read then fills it: that one is told as a share, and is not a sample of a `hit`."""
    found = [reply for reply in with_cache if reply.cache == wanted]
    told = f"{condition}; {len(found) / len(with_cache):.1%} were a {wanted}"
    return Race(GET, told, _times(without), _times(found or with_cache), (1, 0 if wanted == "hit" else 1))
