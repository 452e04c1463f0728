"""`python -m benchmarks.capacity`: compute from `results/costs.json` what more users need.

It writes the tables into docs/scaling.md.
"""

import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.costs import (
    CONNECT,
    ELSEWHERE_BYTES,
    ELSEWHERE_US,
    MESSAGE_BYTES,
    OPERATIONS,
    PARTS,
    READ,
    SOCKET_KB,
    SOCKET_MONGO_US,
    SOCKET_SEND,
    SOCKET_US,
    UNCACHED_READ,
    bytes_of,
)

HERE = Path(__file__).parent
COSTS, PAGE = HERE / "results" / "costs.json", HERE.parent / "docs" / "scaling.md"
BEGIN, END = "<!-- capacity: made by python -m benchmarks.capacity -->", "<!-- end of capacity -->"
NOT_RECORDED = "The costs have not been recorded yet: `python -m benchmarks costs` measures them."
PEOPLE = (1_000_000, 100_000_000)

# What the users do at the busiest time of the day. docs/scaling.md repeats it in words.
ONLINE_SHARE, HIT_SHARE, AVERAGE_SHARE = 0.1, 0.8, 1 / 3
SENDS_PER_MINUTE, READS_PER_MINUTE, CONNECTS_PER_HOUR = 1, 2, 6
BUSY_SHARE = 0.5  # of a core that a process, a primary or a member uses at that time
SOCKETS_PER_PROCESS = 10_000
SECONDS_PER_YEAR = 365 * 86_400


class Costs:
    """The medians of the benchmark `costs`. A figure below zero is noise, and counts as zero."""

    def __init__(self, path: Path) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        self._figures = {name: side["median"] for name, side in found["sides"].items()}
        self._figures |= {check["what"]: check["median"] for check in found["checks"]}

    def __getitem__(self, name: str) -> float:
        return max(0.0, float(self._figures[name]))

    def cpu_s(self, part: str, operation: str) -> float:
        """Return the CPU seconds of a part for one operation."""
        return self[f"{part}, {operation}"] / 1e6


class Load(NamedTuple):
    """How often what happens in a second, at the busiest time, with this many accounts."""

    people: int
    online: float
    sends: float
    reads: float
    connects: float

    @classmethod
    def of(cls, people: int) -> "Load":
        """Return what so many accounts do."""
        online = people * ONLINE_SHARE
        return cls(
            people,
            online,
            online * SENDS_PER_MINUTE / 60,
            online * READS_PER_MINUTE / 60,
            online * CONNECTS_PER_HOUR / 3600,
        )

    def each(self) -> dict[str, float]:
        """Return how often each operation happens."""
        return {
            SOCKET_SEND: self.sends,
            READ: self.reads * HIT_SHARE,
            UNCACHED_READ: self.reads * (1 - HIT_SHARE),
            CONNECT: self.connects,
        }


def cores(costs: Costs, load: Load, part: str) -> float:
    """Return how many cores a part uses, without the reports of presence."""
    used = sum(rate * costs.cpu_s(part, operation) for operation, rate in load.each().items())
    idle = {"service": SOCKET_US, "MongoDB": SOCKET_MONGO_US}  # Redis has nothing to do for them
    return used + (load.online * costs[idle[part]] / 1e6 if part in idle else 0)


def presence_share(costs: Costs, load: Load) -> float:
    """Return the share of a core that each process uses for who comes and goes elsewhere."""
    return 2 * load.connects * costs[ELSEWHERE_US] / 1e6


def processes(costs: Costs, load: Load) -> float | None:
    """Return how many processes share the load. None if presence alone takes all their time."""
    free = BUSY_SHARE - presence_share(costs, load)
    if free <= 0:
        return None
    return max(cores(costs, load, PARTS[0]) / free, load.online / SOCKETS_PER_PROCESS)


def rows(costs: Costs, load: Load) -> dict[str, str]:
    """Return the column of the table for this load."""
    count, presence = processes(costs, load), presence_share(costs, load)
    sent = sum(rate * costs[bytes_of(operation)] for operation, rate in load.each().items())
    stored = load.sends * AVERAGE_SHARE * SECONDS_PER_YEAR * costs[MESSAGE_BYTES]
    return {
        "users online": figure(load.online),
        "sends, reads, connections in a second": " / ".join(
            map(figure, (load.sends, load.reads, load.connects))
        ),
        "cores of the service, without presence": figure(cores(costs, load, "service")),
        "of a core in each process, for presence": f"{figure(100 * presence)} %",
        "processes of the service": figure(count) if count else "impossible: see below",
        "memory of the sockets, all processes": f"{figure(load.online * costs[SOCKET_KB] / 1e6)} GB",
        "memory of presence, each process": f"{figure(load.online * costs[ELSEWHERE_BYTES] / 1e6)} MB",
        "primaries of Redis": figure(max(1, cores(costs, load, "Redis") / BUSY_SHARE)),
        "cores of the primaries of MongoDB": figure(cores(costs, load, "MongoDB") / BUSY_SHARE),
        "to and from the clients": f"{figure(8 * sent / 1e6)} Mbit/s",
        "messages stored in a year, one copy": f"{figure(stored / 1e12)} TB",
    }


def figure(value: float) -> str:
    """Return a figure with two digits that count."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def tables(costs: Costs) -> str:
    """Return both tables in Markdown."""
    lines = ["| operation | service | Redis | MongoDB | bytes to and from the clients |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for operation in OPERATIONS:
        used = [f"{figure(1e6 * costs.cpu_s(part, operation))} µs" for part in PARTS]
        cells = [operation, *used, figure(costs[bytes_of(operation)])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | |", "| --- | ---: |"]
    for name in (
        SOCKET_KB,
        SOCKET_US,
        SOCKET_MONGO_US,
        ELSEWHERE_US,
        ELSEWHERE_BYTES,
        MESSAGE_BYTES,
    ):
        lines.append(f"| {name} | {figure(costs[name])} |")
    columns = [rows(costs, Load.of(people)) for people in PEOPLE]
    heads = " | ".join(f"{people:,} accounts" for people in PEOPLE)
    lines += ["", f"| at the busiest time | {heads} |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {columns[0][name]} | {columns[1][name]} |" for name in columns[0]]
    return "\n".join(lines)


def with_tables(text: str, result: Path) -> str:
    """Return the page with new tables of a result between the two marks."""
    before, _, rest = text.partition(BEGIN)
    new = tables(Costs(result)) if result.exists() else NOT_RECORDED
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), COSTS), encoding="utf-8")
