"""Rows about how long: one request at a time, and at a constant rate. All sides of a row run at once and are asked in turn."""

from collections.abc import Callable
from statistics import median

from benchmarks import generators
from benchmarks.one_socket import OneSocket
from benchmarks.people import TEXT, Person, people, reads, sends, talk_in_chatlab, write_requests
from benchmarks.result import Check, Result, interleaved, ratios
from benchmarks.sides import CONNECTIONS, MESSAGES, Place, Side, missing
from benchmarks.throughput import rate_of
from chatlab.bench import comparisons
from chatlab.bench.claims import Comparison
from chatlab.bench.raw_http import RawHttpClient
from chatlab.bench.samples import share_saved

LENGTHS = (10, 100, 1_000, 100_000)


def measure_p99(place: Place) -> Result:
    """p99 at half of what the peer can at most: sends and cached reads, due at a constant rate, timed from when they were due."""
    sides = [place.chatlab(messages=MESSAGES), *place.peers(messages=MESSAGES)]
    peer = next((side for side in sides if side.name == "Express"), sides[-1])
    found: dict[str, list[float]] = {}
    checks, rates = [], {}
    for work, asked in (("send", sends), ("read", lambda who: reads(who, MESSAGES))):
        rate = rates[work] = max(1, round(rate_of(place, peer, asked(peer.people))() / 2))
        acts = {f"{side.name}, {work}": _paced(place, side, asked(side.people), rate) for side in sides}
        found |= interleaved(place.rounds, acts)
        if peer is not sides[0]:
            checks.append(
                Check(f"{work}: chatlab / {peer.name}", ratios(found[f"chatlab, {work}"], found[f"{peer.name}, {work}"]), 1, False)
            )
    settings = {"half of": peer.name, "rates": rates, "connections": CONNECTIONS, "seconds": place.seconds, "generator": "benchmarks.load"}
    return Result("ms, p99", found, checks, settings, missing(place))


def _paced(place: Place, side: Side, requests: list[list[str]], rate: float) -> Callable[[], float]:
    path = write_requests(requests, place.folder / f"{side.database}.requests-paced")
    spec = {"url": side.url, "requests": str(path), "rate": rate, "connections": CONNECTIONS, "seconds": place.seconds}
    return lambda: generators.own("paced", **spec)["p99"]


def measure_single(place: Place) -> Result:
    """One user, one request at a time: the p50 of each kind, the sides in turn, request by request."""
    cached = [place.chatlab(messages=MESSAGES), *place.peers(messages=MESSAGES)]
    uncached = [place.chatlab(messages=MESSAGES, CACHE_MODE="off"), *place.peers(messages=MESSAGES, cache=False)]
    kinds = {
        "send": (cached, _one_send),
        "cached read": (cached, _one_read),
        "uncached read": (uncached, _one_read),
        "socket send": (cached, _one_socket_send),
    }
    found: dict[str, list[float]] = {}
    for _ in range(place.rounds):
        for kind, (sides, act) in kinds.items():
            for name, replies in comparisons.alternate({side.name: act(side) for side in sides}, place.seconds / 2).items():
                found.setdefault(f"{name}, {kind}", []).append(median(reply.took_ms for reply in replies))
    checks = [
        Check(f"{kind}: chatlab / Express", ratios(found[f"chatlab, {kind}"], found[f"Express, {kind}"]), 1, False)
        for kind in kinds
        if f"Express, {kind}" in found
    ]
    return Result("ms, p50", found, checks, {"at a time": 1, "messages": MESSAGES}, missing(place))


def _one_send(side: Side) -> comparisons.SendRequest:
    return comparisons.make_send(side.wire(), side.people[0].partner, TEXT)


def _one_read(side: Side) -> comparisons.SendRequest:
    wire = side.wire(2)
    return lambda: wire.request("GET", f"/api/messages/{side.people[2].partner}?limit={MESSAGES}")


def _one_socket_send(side: Side) -> comparisons.SendRequest:
    one = OneSocket(side.url, side.people[4].token)
    return lambda: one.send(side.people[4].partner, TEXT)


def measure_cache(place: Place) -> Result:
    """The service with its cache beside itself without: the share of time saved, one request at a time."""
    who = people(place.users)
    readers = [Person(f"reader-{number}", who[number].token, "short") for number in range(place.rounds)]
    others = [Person(name, "", "") for name in ("short", "long", "partner-off", "partner-window", "partner-narrow")]
    everybody = [*readers, *(other._replace(token=f"none-{other.id}") for other in others)]
    off = place.chatlab("off", who=everybody, CACHE_MODE="off")
    sides = (off, place.chatlab_beside(off, "window"), place.chatlab_beside(off, "narrow", WINDOW_SIZE="100"))
    found: dict[str, list[float]] = {}
    checks: dict[str, list[float]] = {}
    for reader in readers:
        seen = {side.name: comparisons.Variant(RawHttpClient(side.url, reader.token), f"partner-{side.name}") for side in sides}
        for race in _races(seen, place.seconds / 3):
            title = f"{race.claim.operation}, {race.condition.partition(';')[0]}"
            found.setdefault(f"off, {title}", []).append(median(race.without_ms))
            found.setdefault(f"cache, {title}", []).append(median(race.with_cache_ms))
            checks.setdefault(title, []).append(share_saved(race.without_ms, race.with_cache_ms).middle)
    targets = dict(zip(checks, (None, 0.6, None, 0.8, 0.5), strict=True))
    return Result(
        "ms, p50",
        found,
        [Check(f"{title}: share of time saved", shares, targets[title]) for title, shares in checks.items()],
        {"at a time": 1},
        ["With CHATLAB_WINDOW_SIZE=100 a read of 500 messages is partial; as shipped it is a hit"],
    )


def _races(sides: comparisons.Variants, seconds: float) -> list[Comparison]:
    return [
        *comparisons.compare_sends(sides, seconds),
        *comparisons.compare_short_reads(sides, seconds),
        *comparisons.compare_long_reads(sides, seconds),
        *comparisons.compare_reactions(sides, seconds),
    ]


def measure_length(place: Place) -> Result:
    """Conversations of 10 to 100,000 messages: the newest 50, cached, and a send."""
    lengths = [length for length in LENGTHS if place.full_size or length < 100_000]
    side = place.chatlab()
    acts: dict[str, comparisons.SendRequest] = {}
    for place_in_people, length in enumerate(lengths):
        reader, writer = side.people[4 * place_in_people], side.people[4 * place_in_people + 2]
        for one in (reader, writer):
            talk_in_chatlab(place.mongo[side.database], one.id, one.partner, length)
        acts[f"read, {length:,} messages"] = _newest(side, reader)
        acts[f"send, {length:,} messages"] = comparisons.make_send(RawHttpClient(side.url, writer.token), writer.partner, TEXT)
    found: dict[str, list[float]] = {name: [] for name in sorted(acts, key=lambda name: name.startswith("send"))}
    for _ in range(place.rounds):
        for name, replies in comparisons.alternate(acts, 3 * place.seconds).items():
            found[name].append(median(reply.took_ms for reply in replies))
    checks = []
    for work in ("read", "send"):
        rounds = zip(*(found[name] for name in found if name.startswith(work) and not name.startswith("read, 10 ")), strict=True)
        checks.append(Check(f"{work}: slowest / quickest length", [max(one) / min(one) for one in rounds], 1.25, False))
    remarks = [
        "Flat: the slowest length at most 1.25 times the quickest. A read of 10 messages is a fifth of the others' bytes, and left out."
    ]
    return Result("ms, p50", found, checks, {"at a time": 1, "messages read": MESSAGES}, remarks)


def _newest(side: Side, reader: Person) -> comparisons.SendRequest:
    wire = RawHttpClient(side.url, reader.token)
    return lambda: wire.request("GET", f"/api/messages/{reader.partner}?limit={MESSAGES}")
