"""Every benchmark runs and reports plausible figures. What they are depends on the machine, so no test checks their size."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from live import Service, SignUp, User
from waiting import LIMIT_S, block_until, wait_until

from benchmarks import generators, people
from benchmarks.load import frame, frames
from benchmarks.one_socket import OneSocket
from benchmarks.page import BEGIN, END, write_page
from benchmarks.result import Check, MeasurementError, Result, interleaved, ratios
from benchmarks.rows import ROWS

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "benchmarks"]
EXPRESS = ROOT / "benchmarks" / "peers" / "express"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measure all rows once, as briefly as possible, with the only peer that needs nothing but Python."""
    folder = tmp_path_factory.mktemp("results")
    command = [*COMMAND, "--seconds", "0.2", "--rounds", "1", "--users", "40", "--without", "express", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(11 * LIMIT_S)  # seconds for all rows together
@pytest.mark.parametrize("row", ROWS)
def test_each_row_gives_figures(results: Path, row: str) -> None:
    """Each row of the table has a figure for each side in its round, its target's checks, its settings and the machine."""
    found = json.loads((results / f"{row}.json").read_text(encoding="utf-8"))
    assert found["target"] == ROWS[row].target
    assert found["settings"]["rounds"] == 1
    assert {"cores", "memory", "Python", "MongoDB", "Redis"} <= found["machine"].keys()
    assert found["sides"]
    assert all(len(side["rounds"]) == 1 for side in found["sides"].values())
    assert all(len(check["rounds"]) == 1 for check in found["checks"])
    if row not in ("sweep", "idle"):  # so few keys and sockets may cost nothing measurable
        assert all(side["median"] > 0 for side in found["sides"].values())


@pytest.mark.slow
@pytest.mark.timeout(11 * LIMIT_S)
def test_the_page_has_every_row(results: Path) -> None:
    """The page has a table and a picture for each row, and names no place of this machine."""
    text = (results / "README.md").read_text(encoding="utf-8")
    for name, row in ROWS.items():
        assert f"### {row.title}" in text
        assert f"({name}.svg)" in text
        assert (results / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
    assert str(results) not in text
    assert str(ROOT) not in text


def test_what_was_started_ends_with_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a row leaves no engine, no side and no load behind."""
    command = [*COMMAND, "cached", "--seconds", "600", "--users", "40", "--without", "express", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    family: set[psutil.Process] = set()

    def commands() -> str:
        assert process.poll() is None
        family.update(psutil.Process(process.pid).children(recursive=True))
        return "\n".join(" ".join(_command_of(one)) for one in family)

    block_until(commands, "a load generator", is_reached=lambda seen: "benchmarks.load" in seen)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    _, alive = psutil.wait_procs(family, timeout=LIMIT_S)
    assert alive == []


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# --- the load ----------------------------------------------------------------------------------------------------------------------


async def test_a_load_of_refused_requests_is_no_measurement(service: Service, sign_up: SignUp, tmp_path: Path) -> None:
    """A side that answers quickly because it refuses is an error, whichever generator asked."""
    alice: User = await sign_up("alice")
    good, bad = ([["GET", "/api/auth/me", token, ""]] for token in (alice.token, "no token"))
    fine = people.write_requests(good, tmp_path / "good")
    assert generators.own("closed", url=service.url, requests=str(fine), seconds=0.2, connections=2)["rate"] > 0
    refused = people.write_requests(bad, tmp_path / "bad")
    with pytest.raises(MeasurementError, match="failed"):
        generators.own("closed", url=service.url, requests=str(refused), seconds=0.2, connections=2)


async def test_a_constant_rate_asks_what_is_due(service: Service, sign_up: SignUp, tmp_path: Path) -> None:
    """At 100 a second for half a second 50 requests are answered, each timed from when it was due."""
    alice: User = await sign_up("alice")
    path = people.write_requests([["GET", "/api/auth/me", alice.token, ""]], tmp_path / "requests")
    found = generators.own("paced", url=service.url, requests=str(path), seconds=0.5, rate=100, connections=4)
    assert (found["requests"], found["failed"]) == (50, 0)
    assert 0 < found["p50"] <= found["p95"] <= found["p99"]


async def test_the_sockets_of_the_load_send_and_hear(service: Service, sign_up: SignUp) -> None:
    """Two sockets that write to each other are acknowledged, and each message is heard by the other one."""
    pair = [await sign_up("alice"), await sign_up("bob")]
    who = [people.Person(one.id, one.token, other.id)._asdict() for one, other in (pair, pair[::-1])]
    found = generators.own("sockets", url=service.url, people=who, text="hello", seconds=0.3)
    assert found["lost"] == 0
    assert found["delivered"] >= found["requests"] > 0


async def test_one_socket_hears_its_ack(service: Service, sign_up: SignUp) -> None:
    """The bare Socket.IO connection sends a message that the service stores."""
    alice, bob = await sign_up("alice"), await sign_up("bob")
    with contextlib.closing(OneSocket(service.url, alice.token)) as one:
        assert one.send("bob", "bare").status == 200
        assert one.send("nobody", "to nobody").status == 500
    assert [message["text"] for message in (await bob.read(alice)).json()] == ["bare"]


async def test_resting_sockets_are_there_and_go(service: Service, sign_up: SignUp) -> None:
    """Sockets that rest are online while the block lasts, and gone after it."""
    alice = await sign_up("alice")
    bob = await sign_up("bob")

    async def online() -> bool:
        return bool((await bob.http.get("/api/users")).json()[0]["online"])

    with generators.resting_sockets(service.url, [people.Person(alice.id, alice.token, bob.id)._asdict()] * 3) as there:
        assert there == 3
        assert await online()
    await bob.connect()
    await wait_until(lambda: bob.received("onlineUsers")[-1:], "Bob alone online", is_reached=lambda latest: latest == [["bob"]])
    assert not await online()


def test_frames_come_whole_however_they_are_cut() -> None:
    """What a server says is the same, one byte at a time or all at once; long frames too."""
    texts = [b"2", b"x" * 125, b"y" * 126, b"z" * 70_000]
    said = b"".join(_from_a_server(text) for text in texts)
    found, rest = list[bytes](), b""
    for start in range(0, len(said), 1000):
        some, rest = frames(rest + said[start : start + 1000])
        found += some
    assert (found, rest) == (texts, b"")


def _from_a_server(text: bytes) -> bytes:
    """A frame without a mask."""
    size = len(text)
    if size < 126:
        return bytes([0x81, size]) + text
    return (b"\x81\x7e" + size.to_bytes(2, "big") if size < 65_536 else b"\x81\x7f" + size.to_bytes(8, "big")) + text


def test_a_frame_of_a_client_has_a_mask_that_changes_nothing() -> None:
    """The protocol wants a mask; one of zeros leaves the text readable."""
    assert frame(b"hello") == b"\x81\x85\0\0\0\0hello"
    assert frame(b"x" * 200)[:8] == b"\x81\xfe\x00\xc8\0\0\0\0"


# --- the results -------------------------------------------------------------------------------------------------------------------


def test_sides_take_turns() -> None:
    """A B A B, not A A B B: what moves the machine moves both."""
    turns = itertools.count(1)
    assert interleaved(2, {"A": lambda: next(turns), "B": lambda: next(turns)}) == {"A": [1, 3], "B": [2, 4]}


def test_the_median_round_decides() -> None:
    """A target is met by the median of the ratios, each of one round; without a target there is no verdict."""
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]
    assert Check("quick", [1.0, 5.0, 6.0], 4).met is True
    assert Check("slow", [1.0, 5.0, 6.0], 4, at_least=False).met is False
    assert Check("told", [1.0]).met is None


def test_the_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    """Results are put between two marks; the words around them stay."""
    page = tmp_path / "README.md"
    page.write_text(f"by hand\n\n{BEGIN}\nold\n{END}\n\nalso by hand\n", encoding="utf-8")
    found: dict[str, Any] = {"row": "sends", "title": "Sends", "target": "many", "machine": {"cores": "2"}}
    found |= Result("sends/s", {"chatlab": [3.0]}, [Check("chatlab / Express", [3.0], 2)], {"rounds": 1}, []).as_json()
    (tmp_path / "sends.json").write_text(json.dumps(found), encoding="utf-8")
    write_page(tmp_path, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("by hand\n\n")
    assert text.endswith("\n\nalso by hand\n")
    assert "old" not in text
    assert "| chatlab / Express | 3 | 3 to 3 | at least 2 | met |" in text


# --- the peers, and what is missing ------------------------------------------------------------------------------------------------


def test_the_express_peer_names_no_registry() -> None:
    """Its lock says what, with a hash each, and not from where."""
    lock = json.loads((EXPRESS / "package-lock.json").read_text(encoding="utf-8"))
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    """Without wrk and Node the rows are measured all the same, and it is said which command would bring them."""
    python = tmp_path / "bin"
    python.mkdir()
    copy = tmp_path / "chatlab"
    shutil.copytree(ROOT / "benchmarks", copy / "benchmarks", ignore=shutil.ignore_patterns("node_modules", "results"))
    environment = os.environ | {"PATH": str(python), "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, "--page", "--out", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "apt-get install wrk" in said
    assert "npm ci --prefix benchmarks/peers/express" in said


def test_a_row_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong name is answered with the right ones, before anything is started."""
    command = [*COMMAND, "sendz", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 2
    assert "sends" in done.stderr
