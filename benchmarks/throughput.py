"""Rows about how much: requests a second, as fast as they go. All sides of a row run at once and are asked in turn."""

import time
from collections.abc import Callable

from pymongo import WriteConcern

from benchmarks import generators
from benchmarks.people import TEXT, as_json, reads, sends, write_requests
from benchmarks.result import Check, Result, interleaved, ratios
from benchmarks.sides import CONNECTIONS, MESSAGES, Place, Side, missing
from chatlab.domain.message import create_draft

SOCKETS = 32


def measure_sends(place: Place) -> Result:
    """Sends over HTTP, beside the peers and a bare insert_many."""
    sides = [place.chatlab(), *place.peers()]
    rates = interleaved(place.rounds, {side.name: rate_of(place, side, sends(side.people)) for side in sides} | _bare_inserts(place))
    remarks = ["insert_many: 32 documents a call, one after the other, the same write concern, nothing else: the floor of MongoDB alone"]
    return Result("sends/s", rates, _beside_express(rates, 4), _http(place), [*remarks, *missing(place)])


def measure_cached(place: Place) -> Result:
    """Reads that Redis answers, beside the peers and a bare application."""
    ours = place.chatlab(messages=MESSAGES)
    sides = [ours, *place.peers(messages=MESSAGES), place.floor(_answers(ours))]
    rates = interleaved(place.rounds, {side.name: rate_of(place, side, reads(side.people, MESSAGES)) for side in sides})
    floor = ratios(rates["chatlab"], rates["bare ASGI + GET"])
    checks = [*_beside_express(rates, 2), Check("chatlab / bare ASGI + one GET", floor, 0.5)]
    return Result("reads/s", rates, checks, _http(place) | {"messages": MESSAGES}, missing(place))


def measure_uncached(place: Place) -> Result:
    """Reads that MongoDB answers: the cache is off on all sides."""
    sides = [place.chatlab(messages=MESSAGES, CACHE_MODE="off"), *place.peers(messages=MESSAGES, cache=False)]
    rates = interleaved(place.rounds, {side.name: rate_of(place, side, reads(side.people, MESSAGES)) for side in sides})
    return Result("reads/s", rates, _beside_express(rates, 2.5), _http(place) | {"messages": MESSAGES, "cache": "off"}, missing(place))


def measure_sockets(place: Place) -> Result:
    """Sends over sockets: an ack to the sender, the message at the other user."""
    remarks: list[str] = []

    def rate(side: Side) -> Callable[[], float]:
        def run() -> float:
            found = generators.own("sockets", url=side.url, people=as_json(side.people[:SOCKETS]), text=TEXT, seconds=place.seconds)
            if found["lost"] > 0:
                remarks.append(f"{side.name}: {found['lost']:.0f} of {found['delivered']:.0f} messages were not heard by the other user")
            return found["rate"]

        return run

    rates = interleaved(place.rounds, {side.name: rate(side) for side in [place.chatlab(), *place.peers()]})
    settings = {"sockets": SOCKETS, "under way on each": 1, "generator": "benchmarks.load", "seconds": place.seconds}
    return Result("acked and delivered/s", rates, _beside_express(rates, 2), settings, [*remarks, *missing(place)])


def measure_workers(place: Place) -> Result:
    """Two processes beside one, for cached reads; the engines and the generator share the cores with them."""
    sides = [place.chatlab(f"{count} process{'es' * (count > 1)}", messages=MESSAGES, WORKERS=str(count)) for count in (1, 2)]
    rates = interleaved(place.rounds, {side.name: rate_of(place, side, reads(side.people, MESSAGES)) for side in sides})
    check = Check("2 processes / 1 process", ratios(rates["2 processes"], rates["1 process"]), 1.3)
    return Result("reads/s", rates, [check], _http(place) | {"messages": MESSAGES}, [])


def rate_of(place: Place, side: Side, requests: list[list[str]]) -> Callable[[], float]:
    """A run of the generator, after a short one that fills caches and wakes what sleeps."""
    path = write_requests(requests, place.folder / f"{side.database}.requests")

    def run() -> float:
        generators.own("closed", url=side.url, requests=str(path), seconds=min(0.5, place.seconds / 4), connections=CONNECTIONS)
        return generators.closed(side.url, path, seconds=place.seconds, connections=CONNECTIONS)["rate"]

    return run


def _bare_inserts(place: Place) -> dict[str, Callable[[], float]]:
    database = place.mongo["floor"]
    messages = database["messages"].with_options(write_concern=WriteConcern(w="majority", j=True))

    def run() -> float:
        database.drop_collection("messages")
        count, started = 0, time.perf_counter()
        while not count or time.perf_counter() - started < place.seconds:
            one, other = f"a{count}", f"b{count}"  # a conversation a batch
            drafts = [create_draft(one, other, TEXT, None) for _ in range(32)]  # type: ignore[arg-type]  # user ids
            messages.insert_many([draft.document(seq) for seq, draft in enumerate(drafts, 1)], ordered=False)
            count += 32
        return count / (time.perf_counter() - started)

    return {"insert_many alone": run}


def _answers(side: Side) -> dict[str, bytes]:
    """What the service answers to whom: the bytes that the floor gives too."""
    with side.wire() as wire:
        answer = wire.request("GET", f"/api/messages/{side.people[0].partner}?limit={MESSAGES}").body
    return {one.partner: answer for one in side.people}


def _beside_express(rates: dict[str, list[float]], target: float) -> list[Check]:
    checks = []
    if "Express" in rates:
        checks.append(Check("chatlab / Express", ratios(rates["chatlab"], rates["Express"]), target))
    if "plain FastAPI" in rates:
        checks.append(Check("chatlab / plain FastAPI", ratios(rates["chatlab"], rates["plain FastAPI"])))
    return checks


def _http(place: Place) -> dict[str, object]:
    generator = "wrk" if generators.wrk_is_there() else "benchmarks.load"
    return {"connections": CONNECTIONS, "users": place.users, "seconds": place.seconds, "generator": generator}
