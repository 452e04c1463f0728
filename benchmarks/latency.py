"""Benchmarks of latency: one request at a time, and at a constant rate.

All servers of a benchmark run at once and are measured in turn.
"""

from collections.abc import Callable
from statistics import median

from benchmarks import generators
from benchmarks.environment import CONNECTIONS, MESSAGES, Environment, missing_servers
from benchmarks.processes import Server
from benchmarks.raw_socket import RawSocketClient
from benchmarks.result import Check, Result, interleave, ratios
from benchmarks.throughput import rate_of
from benchmarks.users import (
    TEXT,
    BenchUser,
    RequestLine,
    make_users,
    read_requests,
    send_requests,
    write_requests,
)
from chatlab.bench.claims import Comparison
from chatlab.bench.comparisons import (
    SendRequest,
    Variant,
    Variants,
    alternate,
    compare_long_reads,
    compare_reactions,
    compare_sends,
    compare_short_reads,
    make_send,
)
from chatlab.bench.raw_http import RawHttpClient
from chatlab.bench.samples import share_saved


def measure_p99(environment: Environment) -> Result:
    """Measure the p99 of sends and cached reads at half of the peer's highest rate.

    Requests are due at a constant rate, and the latency counts from when a request was due.
    """
    servers = [environment.chatlab(messages=MESSAGES), *environment.peers(messages=MESSAGES)]
    peer = next((server for server in servers if server.name == "Express"), servers[-1])
    figures: dict[str, list[float]] = {}
    checks, rates = [], {}
    for kind, requests_of in (
        ("send", send_requests),
        ("read", lambda users: read_requests(users, MESSAGES)),
    ):
        rate = rates[kind] = max(
            1, round(rate_of(environment, peer, requests_of(peer.users))() / 2)
        )
        figures |= interleave(
            environment.rounds,
            {
                f"{server.name}, {kind}": _paced(
                    environment, server, requests_of(server.users), rate
                )
                for server in servers
            },
        )
        if peer is not servers[0]:
            ratio = ratios(figures[f"chatlab, {kind}"], figures[f"{peer.name}, {kind}"])
            checks.append(Check(f"{kind}: chatlab / {peer.name}", ratio, 1, at_least=False))
    settings = {
        "half of": peer.name,
        "rates": rates,
        "connections": CONNECTIONS,
        "seconds": environment.seconds,
        "generator": generators.OWN_GENERATOR,
    }
    return Result("ms, p99", figures, checks, settings, missing_servers(environment))


def _paced(
    environment: Environment, server: Server, requests: list[RequestLine], rate: float
) -> Callable[[], float]:
    path = write_requests(requests, environment.folder / f"{server.database}.requests-paced")
    seconds = environment.seconds
    spec = {
        "url": server.url,
        "requests": str(path),
        "rate": rate,
        "connections": CONNECTIONS,
        "seconds": seconds,
    }
    return lambda: generators.run_own("paced", **spec)["p99"]


def measure_single(environment: Environment) -> Result:
    """Measure the p50 of each kind of request, one at a time; the servers alternate."""
    cached = [environment.chatlab(messages=MESSAGES), *environment.peers(messages=MESSAGES)]
    uncached = [
        environment.chatlab(messages=MESSAGES, CACHE_MODE="off"),
        *environment.peers(messages=MESSAGES, cache=False),
    ]
    kinds = {
        "send": (cached, _one_send),
        "cached read": (cached, _one_read),
        "uncached read": (uncached, _one_read),
        "socket send": (cached, _one_socket_send),
    }
    figures: dict[str, list[float]] = {}
    for _ in range(environment.rounds):
        for kind, (servers, make_request) in kinds.items():
            requests = {server.name: make_request(server) for server in servers}
            for name, replies in alternate(requests, environment.seconds / 2).items():
                figures.setdefault(f"{name}, {kind}", []).append(
                    median(reply.took_ms for reply in replies)
                )
    checks = [
        Check(
            f"{kind}: chatlab / Express",
            ratios(figures[f"chatlab, {kind}"], figures[f"Express, {kind}"]),
            1,
            at_least=False,
        )
        for kind in kinds
        if f"Express, {kind}" in figures
    ]
    settings = {"requests at a time": 1, "messages": MESSAGES}
    return Result("ms, p50", figures, checks, settings, missing_servers(environment))


def _one_send(server: Server) -> SendRequest:
    return make_send(server.connect(), server.users[0].partner, TEXT)


def _one_read(server: Server) -> SendRequest:
    return read_newest(server, server.users[2])


def read_newest(server: Server, reader: BenchUser) -> SendRequest:
    """Return a function that reads the newest messages of this user's conversation."""
    client = RawHttpClient(server.url, reader.token)
    return lambda: client.request("GET", f"/api/messages/{reader.partner}?limit={MESSAGES}")


def _one_socket_send(server: Server) -> SendRequest:
    user = server.users[4]
    client = RawSocketClient(server.url, user.token)
    return lambda: client.send(user.partner, TEXT)


def measure_cache(environment: Environment) -> Result:
    """Measure the share of time that the cache saves, one request at a time.

    Each round has its own reader, so that it starts with empty conversations.
    """
    tokens = make_users(environment.users)
    readers = [
        BenchUser(f"reader-{number}", tokens[number].token, "short")
        for number in range(environment.rounds)
    ]
    others = ("short", "long", "partner-off", "partner-window", "partner-narrow")
    users = [*readers, *(BenchUser(name, f"none-{name}", "") for name in others)]
    off = environment.chatlab("off", users=users, CACHE_MODE="off")
    narrow = environment.chatlab_like(off, "narrow", WINDOW_SIZE="100")
    servers = (off, environment.chatlab_like(off, "window"), narrow)
    figures: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for reader in readers:
        variants = {
            one.name: Variant(RawHttpClient(one.url, reader.token), f"partner-{one.name}")
            for one in servers
        }
        for comparison in _compare_all(variants, environment.seconds / 3):
            title = f"{comparison.claim.operation}, {comparison.condition.partition(';')[0]}"
            without, with_cache = comparison.without_ms, comparison.with_cache_ms
            figures.setdefault(f"off, {title}", []).append(median(without))
            figures.setdefault(f"cache, {title}", []).append(median(with_cache))
            shares.setdefault(title, []).append(share_saved(without, with_cache).middle)
    targets = (None, 0.6, None, 0.8, 0.5)  # in the order of the comparisons
    checks = [
        Check(f"{title}: share of time saved", rounds, target)
        for (title, rounds), target in zip(shares.items(), targets, strict=True)
    ]
    remark = "With CHATLAB_WINDOW_SIZE=100 a read of 500 messages is partial; with the default it is a hit"
    return Result("ms, p50", figures, checks, {"requests at a time": 1}, [remark])


def _compare_all(variants: Variants, seconds: float) -> list[Comparison]:
    return [
        *compare_sends(variants, seconds),
        *compare_short_reads(variants, seconds),
        *compare_long_reads(variants, seconds),
        *compare_reactions(variants, seconds),
    ]
