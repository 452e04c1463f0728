"""The capacity model of docs/scaling.md is computed from the measured costs."""

import json
from pathlib import Path

import pytest

from benchmarks.capacity import (
    BUSY_SHARE,
    COSTS,
    PAGE,
    SOCKETS_PER_PROCESS,
    Costs,
    Load,
    cores,
    figure,
    presence_share,
    processes,
    with_tables,
)
from benchmarks.costs import (
    ELSEWHERE_BYTES,
    ELSEWHERE_US,
    MESSAGE_BYTES,
    OPERATIONS,
    PARTS,
    SOCKET_KB,
    SOCKET_MONGO_US,
    SOCKET_US,
    bytes_of,
)


def test_the_tables_of_the_page_are_those_of_the_result() -> None:
    """After a new measurement, `python -m benchmarks.capacity` writes them again."""
    text = PAGE.read_text("utf-8")
    assert with_tables(text, COSTS) == text


def costs_of(folder: Path, **changed: float) -> Costs:
    """Return costs in which each figure is one, apart from these checks."""
    names = (SOCKET_KB, SOCKET_US, SOCKET_MONGO_US, ELSEWHERE_US, ELSEWHERE_BYTES, MESSAGE_BYTES)
    checks = dict.fromkeys((*names, *map(bytes_of, OPERATIONS)), 1.0) | changed
    sides = {f"{part}, {one}": {"median": 1.0} for part in PARTS for one in OPERATIONS}
    found = [{"what": what, "median": median} for what, median in checks.items()]
    (folder / "costs.json").write_text(json.dumps({"sides": sides, "checks": found}))
    return Costs(folder / "costs.json")


def test_new_tables_replace_the_old_ones(tmp_path: Path) -> None:
    """What is outside the marks stays, and a page has one set of tables."""
    costs_of(tmp_path)
    once = with_tables(PAGE.read_text("utf-8"), tmp_path / "costs.json")
    assert "| users online | 100,000 | 10,000,000 |" in once
    assert with_tables(once, COSTS) == PAGE.read_text("utf-8")


def test_the_load_grows_with_the_accounts_and_presence_with_their_square(tmp_path: Path) -> None:
    """All processes together pay for presence: their number grows, and what each of them pays."""
    costs = costs_of(tmp_path)
    one, ten = Load.of(1_000_000), Load.of(10_000_000)
    for part in PARTS:
        assert cores(costs, ten, part) == pytest.approx(10 * cores(costs, one, part))
    assert presence_share(costs, ten) == pytest.approx(10 * presence_share(costs, one))


def test_the_number_of_processes_is_that_of_the_scarcest_resource(tmp_path: Path) -> None:
    """Sockets, CPU time, or there is no number, because presence takes all of the time."""
    load = Load.of(1_000_000)
    assert processes(costs_of(tmp_path), load) == load.online / SOCKETS_PER_PROCESS
    busy = costs_of(tmp_path, **{SOCKET_US: 1000.0})
    free = BUSY_SHARE - presence_share(busy, load)
    assert processes(busy, load) == pytest.approx(cores(busy, load, "service") / free)
    assert processes(costs_of(tmp_path, **{ELSEWHERE_US: 1e6}), load) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.012"), (9.96, "10"), (1234, "1,200")]
)
def test_figures_have_two_digits(value: float, text: str) -> None:
    """More would promise a precision that a measurement does not have."""
    assert figure(value) == text
