"""Costs that must not grow with the number of users: the lists, and a crowd that joins."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median

from pymongo.database import Database

from benchmarks import generators
from benchmarks.environment import Environment
from benchmarks.processes import Server
from benchmarks.result import Check, MeasurementError, Result
from benchmarks.users import BenchUser, Json, as_json, insert_conversation, make_users

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # users
SMALL_SIZES = (100, 400)
CONVERSATIONS = 200  # of the user who reads
INSERTED_AT_ONCE = 10_000
NAMES = ("Ada", "Anaïs", "Björn", "Chloé", "Émile", "Jürgen", "Łukasz", "María", "Noël", "Zoë")
LISTS = {
    "conversations": "/api/conversations",
    "users": "/api/users",
    "users by name": "/api/users?query=mar",
    "users by id": "/api/users?query=u0001",
}
MAX_LIST_MS, MAX_GROWTH = 10, 1.5

JOINING = 2_000
JOINING_SECONDS = 60
GROUP = 10  # partners who write to each other: each has nine partners
MAX_JOINING_MB, MAX_CONNECT_MS = 5, 250


def measure_lists(environment: Environment) -> Result:
    """Measure a page of each list, with more and more users in the database."""
    sizes = SIZES if environment.full_size else SMALL_SIZES
    series: dict[str, list[float]] = {}
    for size in sizes:
        server = environment.chatlab(users=make_users(CONVERSATIONS // 2))
        _insert_users(environment.mongo[server.database], size)
        _insert_conversations(environment.mongo[server.database], server.users[0].id)
        with server.connect() as client:
            for name, path in LISTS.items():
                client.request("GET", path)  # the plan of the query, and connections
                times = []
                for _ in range(environment.rounds):
                    until = time.monotonic() + environment.seconds
                    times_ms = []
                    while time.monotonic() < until:
                        reply = client.request("GET", path)
                        if reply.status != 200:
                            raise MeasurementError(f"{path} was answered with {reply.status}.")
                        times_ms.append(reply.took_ms)
                    times.append(median(times_ms))
                series[f"{name}, {size:,} users"] = times
        environment.stop_servers()
    first, last = sizes[0], sizes[-1]
    checks = [
        Check(
            f"{name}: p50 with {last:,} users, ms",
            series[f"{name}, {last:,} users"],
            MAX_LIST_MS,
            at_least=False,
        )
        for name in LISTS
    ] + [
        Check(
            f"{name}: {last:,} / {first:,} users",
            [
                median(series[f"{name}, {last:,} users"])
                / median(series[f"{name}, {first:,} users"])
            ],
            MAX_GROWTH,
            at_least=False,
        )
        for name in LISTS
    ]
    settings = {"conversations of the reader": CONVERSATIONS, "seconds": environment.seconds}
    return Result("ms", series, checks, settings, [])


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


# --- a crowd that joins ------------------------------------------------------------------------


def measure_joining(environment: Environment) -> Result:
    """Measure what a crowd that joins in a minute costs: bytes and frames to all its clients.

    The crowd is in groups of partners, as in a company of many teams.
    """
    count, seconds = (JOINING, JOINING_SECONDS) if environment.full_size else (20, 0.5)
    figures: dict[str, list[float]] = {"MB": [], "frames": [], "p99": [], "cpu": []}
    for _ in range(environment.rounds):
        server = environment.chatlab(users=make_users(count))
        _make_groups(environment.mongo[server.database], server)
        before = server.cpu_seconds()
        found = generators.run_own(
            "joining", url=server.url, users=as_json(server.users), seconds=seconds
        )
        figures["cpu"].append(server.cpu_seconds() - before)
        figures["MB"].append(found["bytes"] / 1e6)
        figures["frames"].append(found["frames"])
        figures["p99"].append(found["p99"])
        environment.stop_servers()
    checks = [
        Check("MB to all clients", figures["MB"], MAX_JOINING_MB, at_least=False),
        Check("frames to all clients", figures["frames"]),
        Check("CPU seconds of the service", figures["cpu"]),
        Check("p99 of a connection, ms", figures["p99"], MAX_CONNECT_MS, at_least=False),
    ]
    settings = {"users": count, "partners of each": GROUP - 1, "seconds": seconds}
    return Result("MB", {"to all clients": figures["MB"]}, checks, settings, [])


def _make_groups(database: Database[Json], server: Server) -> None:
    """Insert the summaries of conversations of all pairs in each group."""
    today = datetime.now(UTC)
    database["reads"].insert_many(
        {"userId": user, "conversation": f"{one}:{other}", "seq": 0, "lastSeq": 1, "lastAt": today}
        for one, other in _pairs(server.users)
        for user in (one, other)
    )


def _pairs(users: list[BenchUser]) -> Iterator[tuple[str, str]]:
    for start in range(0, len(users), GROUP):
        names = sorted(user.id for user in users[start : start + GROUP])
        yield from ((one, other) for one in names for other in names if one < other)
