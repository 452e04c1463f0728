"""What a crowd that joins in a minute costs. It must not grow with the square of its size."""

from collections.abc import Iterator
from datetime import UTC, datetime

from pymongo.database import Database

from benchmarks import generators
from benchmarks.environment import Environment
from benchmarks.processes import Server
from benchmarks.result import Check, Result
from benchmarks.users import BenchUser, Json, as_json, make_users

JOINING = 2_000
JOINING_SECONDS = 60
GROUP = 10  # partners who write to each other: each has nine partners
MAX_JOINING_MB, MAX_CONNECT_MS = 5, 250


def measure_joining(environment: Environment) -> Result:
    """Measure what a crowd that joins in a minute costs: bytes and frames to all its clients.

    The crowd is in groups of partners, as in a company of many teams.
    """
    count, seconds = (JOINING, JOINING_SECONDS) if environment.full_size else (20, 0.5)
    figures: dict[str, list[float]] = {"MB": [], "frames": [], "p99": [], "cpu": []}
    for _ in range(environment.rounds):
        server = environment.chatlab(users=make_users(count))
        make_groups(environment.mongo[server.database], server)
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


def make_groups(database: Database[Json], server: Server) -> None:
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
