"""Costs that must not grow: with users, people online, messages, live keys, and processes.

Each benchmark gives curves with their slopes on logarithmic axes. A cost that stays the same has
the slope 0, and one that is proportional has 1.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from pymongo.database import Database

from benchmarks import generators
from benchmarks.environment import CONNECTIONS, MESSAGES, Environment
from benchmarks.footprint import cpu_share, write_keys
from benchmarks.latency import read_newest
from benchmarks.processes import Server
from benchmarks.result import Check, Curves, MeasurementError, Result, slope
from benchmarks.users import (
    TEXT,
    Json,
    RequestLine,
    as_json,
    insert_conversation,
    make_users,
    read_requests,
    send_requests,
    write_requests,
)
from chatlab.bench.comparisons import SendRequest, alternate, make_send
from chatlab.bench.raw_http import RawHttpClient

USERS, FEW_USERS = (1_000, 10_000, 100_000, 1_000_000), (100, 400)
ONLINE, FEW_ONLINE = (100, 1_000, 10_000), (10, 20)
LENGTHS, SHORT = (10, 100, 1_000, 10_000, 100_000, 1_000_000), (10, 100, 1_000)
KEYS, FEW_KEYS = (1_000, 10_000, 100_000, 1_000_000), (1_000, 2_000)
PROCESSES, FEW_PROCESSES = (1, 2, 4, 8), (1, 2)

CONVERSATIONS = 200  # of the user who reads the lists
INSERTED_AT_ONCE = 10_000
NAMES = ("Ada", "Anaïs", "Björn", "Chloé", "Émile", "Jürgen", "Łukasz", "María", "Noël", "Zoë")
LISTS = {
    "conversations": "/api/conversations",
    "users": "/api/users",
    "users by name": "/api/users?query=mar",
    "users by id": "/api/users?query=u0001",
}
NEWCOMERS = 20  # who connect while the others are online
SENDS_PER_SECOND, READS_PER_SECOND = 200, 1_000
KEY_TTL_S = 600
MAX_LIST_MS, MAX_LIST_GROWTH, MAX_GROWTH, MAX_PROCESS_GROWTH, MAX_IDLE = 10, 1.5, 1.25, 1.15, 3


def measure_lists(environment: Environment) -> Result:
    """Measure a page of each list, with more and more users in the database."""
    curves: Curves = {name: {} for name in LISTS}
    for size in USERS if environment.full_size else FEW_USERS:
        server = environment.chatlab(users=make_users(CONVERSATIONS // 2))
        _insert_users(environment.mongo[server.database], size)
        _insert_conversations(environment.mongo[server.database], server.users[0].id)
        with server.connect() as client:
            for name, path in LISTS.items():
                _get(client, path)  # the plan of the query, and connections
                curves[name][size] = [
                    _get_for(environment.seconds, client, path) for _ in range(environment.rounds)
                ]
        environment.stop_servers()
    checks = []
    for name, points in curves.items():
        most = max(points)
        what = f"{name}: p50 with {most:,} users, ms"
        checks.append(Check(what, points[most], MAX_LIST_MS, at_least=False))
    checks += [_growth(name, points, "users", MAX_LIST_GROWTH) for name, points in curves.items()]
    settings = {"conversations of the reader": CONVERSATIONS, "seconds": environment.seconds}
    return _result("ms, p50", "users", curves, checks, settings)


def _get_for(seconds: float, client: RawHttpClient, path: str) -> float:
    """Return the median time of GET requests, one at a time, in ms."""
    until, times_ms = time.monotonic() + seconds, list[float]()
    while time.monotonic() < until:
        times_ms.append(_get(client, path))
    return median(times_ms)


def _get(client: RawHttpClient, path: str) -> float:
    reply = client.request("GET", path)
    if reply.status != 200:
        raise MeasurementError(f"{path} was answered with {reply.status}.")
    return reply.took_ms


def _insert_users(database: Database[Json], count: int) -> None:
    """Insert users who never log in, with names of ten kinds."""
    today = datetime.now(UTC)
    for start in range(0, count, INSERTED_AT_ONCE):
        numbers = range(start, min(start + INSERTED_AT_ONCE, count))
        database["users"].insert_many(
            {
                "_id": f"other{number:07}",
                "displayName": f"{NAMES[number % len(NAMES)]} {number}",
                "passwordHash": "none",
                "createdAt": today,
            }
            for number in numbers
        )


def _insert_conversations(database: Database[Json], reader: str) -> None:
    """Insert conversations of the reader with their summaries, as the service writes them."""
    today = datetime.now(UTC)
    partners = [row["_id"] for row in database["users"].find().limit(CONVERSATIONS)]
    for number, partner in enumerate(one for one in partners if one != reader):
        insert_conversation(database, partner, reader, 3)
        one, other = sorted((partner, reader))
        summary = {"lastSeq": 3, "lastAt": today - timedelta(seconds=number), "seq": 0}
        for user in (partner, reader):
            key = {"userId": user, "conversation": f"{one}:{other}"}
            database["reads"].update_one(key, {"$set": summary}, upsert=True)


# --- people online -----------------------------------------------------------------------------


def measure_online(environment: Environment) -> Result:
    """Measure a send and a new connection while more and more people are connected."""
    sizes = ONLINE if environment.full_size else FEW_ONLINE
    users = make_users(NEWCOMERS + sizes[-1])
    server = environment.chatlab(users=users, MAX_CONNECTIONS=str(2 * sizes[-1]))
    newcomers, crowd = users[:NEWCOMERS], users[NEWCOMERS:]
    send = make_send(server.connect(), users[0].partner, TEXT)
    curves: Curves = {"send": {}, "connect": {}}
    for size in sizes:
        with generators.open_idle_sockets(server.url, as_json(crowd[:size])):
            time.sleep(min(3.0, 4 * environment.seconds))  # until all events are sent
            for _ in range(environment.rounds):
                replies = alternate({"send": send}, environment.seconds)["send"]
                _add(curves, "send", size, median(reply.took_ms for reply in replies))
                found = generators.run_own(
                    "joining",
                    url=server.url,
                    users=as_json(newcomers),
                    seconds=environment.seconds,
                )
                _add(curves, "connect", size, found["p50"])
    checks = [_growth(name, points, "sockets", MAX_LIST_GROWTH) for name, points in curves.items()]
    settings = {"newcomers in each round": NEWCOMERS, "seconds": environment.seconds}
    return _result("ms, p50", "sockets", curves, checks, settings)


# --- the length of a conversation --------------------------------------------------------------


def measure_length(environment: Environment) -> Result:
    """Measure cached reads of the newest 50 messages, and sends, in conversations of any length."""
    server = environment.chatlab()
    requests: dict[str, SendRequest] = {}
    for index, length in enumerate(LENGTHS if environment.full_size else SHORT):
        reader, writer = server.users[4 * index], server.users[4 * index + 2]
        for user in (reader, writer):
            insert_conversation(environment.mongo[server.database], user.id, user.partner, length)
        requests[f"read {length}"] = read_newest(server, reader)
        client = RawHttpClient(server.url, writer.token)
        requests[f"send {length}"] = make_send(client, writer.partner, TEXT)
    curves: Curves = {"read": {}, "send": {}}
    for _ in range(environment.rounds):
        for request, replies in alternate(requests, 3 * environment.seconds).items():
            name, length_as_text = request.split()
            _add(curves, name, int(length_as_text), median(reply.took_ms for reply in replies))
    del curves["read"][LENGTHS[0]]
    checks = [_growth(name, points, "messages", MAX_GROWTH) for name, points in curves.items()]
    remark = f"A read of {LENGTHS[0]} messages transfers a fifth of the bytes of the others, so it is left out."
    settings = {"requests at a time": 1, "messages read": MESSAGES}
    return _result("ms, p50", "messages", curves, checks, settings, remark)


# --- live keys ---------------------------------------------------------------------------------


def measure_keys(environment: Environment) -> Result:
    """Measure sends, cached reads and sweeps while more and more keys are in Redis."""
    interval_s = 1.0 if environment.full_size else 0.1
    server = environment.chatlab(
        messages=MESSAGES, SWEEP_INTERVAL=str(interval_s), CACHE_TTL=str(KEY_TTL_S)
    )
    window_s = max(2 * interval_s, environment.seconds)
    idle, loads = cpu_share(server, window_s), _loads(environment, server)
    curves: Curves = {"send": {}, "read": {}, "CPU time of a sweep": {}}
    for size in KEYS if environment.full_size else FEW_KEYS:
        for _ in range(environment.rounds):
            write_keys(environment, size, KEY_TTL_S)
            time.sleep(3 * interval_s)  # a sweep that finds the keys for the first time
            sweep_ms = (cpu_share(server, window_s) - idle) * interval_s * 1000
            # A logarithm needs a value above zero, and the cost of few keys may be too small.
            _add(curves, "CPU time of a sweep", size, max(sweep_ms, 0.01))
            for name in ("read", "send"):  # sends last, because they add keys
                _add(curves, name, size, loads[name](SENDS_PER_SECOND)["p50"])
            environment.redis.flushdb()
    checks = [_growth(name, curves[name], "keys", MAX_GROWTH) for name in ("send", "read")]
    settings = {
        "requests a second": SENDS_PER_SECOND,
        "sweep interval": f"{interval_s:g} s",
        "seconds": environment.seconds,
    }
    return _result("ms", "keys", curves, checks, settings)


# --- processes ---------------------------------------------------------------------------------


def measure_processes(environment: Environment) -> Result:
    """Measure the CPU time of a cached read and of a send, with more and more processes."""
    counts = PROCESSES if environment.full_size else FEW_PROCESSES
    curves: Curves = {"read": {}, "send": {}}
    idle: dict[int, list[float]] = {}
    for count in counts:
        server = environment.chatlab(f"{count} processes", messages=MESSAGES, WORKERS=str(count))
        loads = _loads(environment, server)
        for _ in range(environment.rounds):
            share = cpu_share(server, environment.seconds)
            idle.setdefault(count, []).append(100 * share)
            for name, rate in (("read", READS_PER_SECOND), ("send", SENDS_PER_SECOND)):
                started, before = time.perf_counter(), server.cpu_seconds()
                found = loads[name](rate)
                used_s = server.cpu_seconds() - before
                used_s -= share * (time.perf_counter() - started)
                _add(curves, name, count, 1e6 * used_s / found["requests"])
        environment.stop_servers()
    checks = [
        _growth(name, points, "processes", MAX_PROCESS_GROWTH) for name, points in curves.items()
    ]
    checks.append(
        Check(
            f"{counts[-1]} idle processes, % of a core", idle[counts[-1]], MAX_IDLE, at_least=False
        )
    )
    settings = {
        "reads a second": READS_PER_SECOND,
        "sends a second": SENDS_PER_SECOND,
        "seconds": environment.seconds,
    }
    remark = "The CPU time of the service without requests is subtracted."
    return _result("µs of CPU time", "processes", curves, checks, settings, remark)


# --- all of them -------------------------------------------------------------------------------


def _loads(
    environment: Environment, server: Server
) -> dict[str, Callable[[int], generators.Figures]]:
    """Return functions that read and send at a constant rate, and return the figures."""

    def load(name: str, requests: list[RequestLine]) -> Callable[[int], generators.Figures]:
        path = write_requests(requests, environment.folder / f"{server.database}.{name}")
        return lambda rate: generators.run_own(
            "paced",
            url=server.url,
            requests=str(path),
            rate=rate,
            connections=CONNECTIONS,
            seconds=environment.seconds,
        )

    return {
        "read": load("read", read_requests(server.users, MESSAGES)),
        "send": load("send", send_requests(server.users)),
    }


def _add(curves: Curves, name: str, size: int, figure: float) -> None:
    curves[name].setdefault(size, []).append(figure)


def _growth(name: str, points: dict[int, list[float]], x: str, limit: float) -> Check:
    """Compare the last point of a curve with the first."""
    first, last = min(points), max(points)
    ratio = median(points[last]) / median(points[first])
    return Check(f"{name}: {last:,} / {first:,} {x}", [ratio], limit, at_least=False)


def _result(
    unit: str,
    x: str,
    curves: Curves,
    checks: Sequence[Check],
    settings: dict[str, Any],
    *remarks: str,
) -> Result:
    slopes = [Check(f"{name}: slope", [slope(points)]) for name, points in curves.items()]
    series = {
        f"{name}, {size:,} {x}": rounds
        for name, points in curves.items()
        for size, rounds in points.items()
    }
    return Result(unit, series, [*checks, *slopes], settings, list(remarks), curves, x)
