"""Every benchmark runs and reports figures. They depend on the machine, so no test checks their size."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from live import Service, SignUp, User
from pymongo import MongoClient
from waiting import LIMIT_S, block_until, wait_until

from benchmarks import generators
from benchmarks.load.websocket import decode_frames, encode_frame
from benchmarks.page import BEGIN, END, write_page
from benchmarks.raw_socket import RawSocketClient
from benchmarks.registry import BENCHMARKS
from benchmarks.result import (
    Check,
    Curves,
    MeasurementError,
    Result,
    interleave,
    ratios,
    slope,
)
from benchmarks.users import BenchUser, write_requests
from chatlab.local.engines import open_engines
from chatlab.settings import load_settings

pytestmark = pytest.mark.slow  # the benchmarks are not part of the service
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks"]
EXPRESS = ROOT / "benchmarks" / "peers" / "express"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all benchmarks once, as briefly as possible, with the peer that is written in Python."""
    folder = tmp_path_factory.mktemp("results")
    command = [
        *COMMAND,
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--users",
        "40",
        "--without",
        "express",
        "--out",
        str(folder),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=10 * LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(11 * LIMIT_S)  # seconds for all benchmarks together
@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_gives_figures(results: Path, name: str) -> None:
    """Each result has figures for each server, the checks of the target, the settings and the machine."""
    found = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    assert found["target"] == BENCHMARKS[name].target
    assert found["settings"]["rounds"] == 1
    assert {"cores", "memory", "Python", "MongoDB", "Redis"} <= found["machine"].keys()
    assert found["sides"]
    assert all(len(series["rounds"]) == 1 for series in found["sides"].values())
    assert all(len(check["rounds"]) == 1 for check in found["checks"])
    # The CPU time of so few keys, sockets and requests may be too small to measure.
    if name not in ("sweep", "idle", "processes", "costs"):
        assert all(series["median"] > 0 for series in found["sides"].values())


@pytest.mark.slow
@pytest.mark.timeout(11 * LIMIT_S)
def test_the_page_has_every_benchmark(results: Path) -> None:
    """The page has a table and a chart for each benchmark, and no path of this machine."""
    text = (results / "README.md").read_text(encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        assert f"### {benchmark.title}" in text
        assert f"({name}.svg)" in text
        assert (results / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
    assert str(results) not in text
    assert str(ROOT) not in text


def test_ctrl_c_stops_everything_that_was_started(tmp_path: Path) -> None:
    """Ctrl-C during a benchmark leaves no engine, server or load generator running."""
    command = [
        *COMMAND,
        "cached",
        "--seconds",
        "600",
        "--users",
        "40",
        "--without",
        "express",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
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


def test_given_engines_are_used_and_left_empty(tmp_path: Path) -> None:
    """The benchmarks delete what they wrote, and do not use a Redis that already has keys."""
    settings = load_settings(data_dir=tmp_path / "data", mongo_url=None, redis_url=None)
    with open_engines(settings) as engines:
        options = ["--seconds", "0.2", "--rounds", "1", "--users", "40", "--without", "express"]
        options += ["--mongo-url", engines.mongo.url, "--redis-url", engines.redis.url]
        command = [*COMMAND, "sends", *options, "--out", str(tmp_path / "results")]
        run = partial(
            subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
        )
        done = run()
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "results" / "sends.json").exists()
        with (
            MongoClient[dict[str, Any]](engines.mongo.url) as mongo,
            redis.Redis.from_url(engines.redis.url) as keys,
        ):
            assert not any(name.startswith("bench") for name in mongo.list_database_names())
            assert not keys.info("keyspace")
            keys.set("mine", "1")
            refused = run()
            assert refused.returncode == 1
            assert "has keys, which the benchmarks would delete" in refused.stderr
            assert keys.get("mine") == b"1"


# --- the load ----------------------------------------------------------------------------------


async def test_rejected_requests_are_an_error(
    service: Service, sign_up: SignUp, tmp_path: Path
) -> None:
    """Quick error responses are not measured as throughput."""
    alice: User = await sign_up("alice")
    good, bad = ([["GET", "/api/auth/me", token, ""]] for token in (alice.token, "no token"))
    fine = write_requests(good, tmp_path / "good")
    assert (
        generators.run_own(
            "closed", url=service.url, requests=str(fine), seconds=0.2, connections=2
        )["rate"]
        > 0
    )
    refused = write_requests(bad, tmp_path / "bad")
    with pytest.raises(MeasurementError, match="failed"):
        generators.run_own(
            "closed", url=service.url, requests=str(refused), seconds=0.2, connections=2
        )


async def test_a_constant_rate_sends_every_request_that_is_due(
    service: Service, sign_up: SignUp, tmp_path: Path
) -> None:
    """At 100 requests a second, 50 are answered in half a second, timed from when they were due."""
    alice: User = await sign_up("alice")
    path = write_requests([["GET", "/api/auth/me", alice.token, ""]], tmp_path / "requests")
    found = generators.run_own(
        "paced", url=service.url, requests=str(path), seconds=0.5, rate=100, connections=4
    )
    assert (found["requests"], found["failed"]) == (50, 0)
    assert 0 < found["p50"] <= found["p95"] <= found["p99"]


async def test_sockets_of_the_load_send_and_receive(service: Service, sign_up: SignUp) -> None:
    """Two sockets send to each other. Each send is acknowledged and each message is received."""
    pair = [await sign_up("alice"), await sign_up("bob")]
    users = [BenchUser(one.id, one.token, other.id)._asdict() for one, other in (pair, pair[::-1])]
    found = generators.run_own("sockets", url=service.url, users=users, text="hello", seconds=0.3)
    assert found["lost"] == 0
    assert found["delivered"] >= found["requests"] > 0


async def test_the_raw_socket_client_waits_for_the_ack(service: Service, sign_up: SignUp) -> None:
    """The client sends a message that the service stores, and reports a rejected one."""
    alice, bob = await sign_up("alice"), await sign_up("bob")
    with contextlib.closing(RawSocketClient(service.url, alice.token)) as one:
        assert one.send("bob", "bare").status == 200
        assert one.send("nobody", "to nobody").status == 500
    assert [message["text"] for message in (await bob.read(alice)).json()] == ["bare"]


async def test_idle_sockets_are_open_during_the_block(service: Service, sign_up: SignUp) -> None:
    """The user is online while the idle sockets are open, and offline after the block."""
    alice = await sign_up("alice")
    bob = await sign_up("bob")

    async def online() -> bool:
        return bool((await bob.http.get("/api/users")).json()[0]["online"])

    with generators.open_idle_sockets(
        service.url, [BenchUser(alice.id, alice.token, bob.id)._asdict()] * 3
    ) as opened:
        assert opened == 3
        assert await online()
    await wait_until(online, "Alice to be offline", is_reached=lambda still: not still)


def test_frames_are_decoded_however_the_data_is_split() -> None:
    """Frames of all sizes are decoded from data that arrives in pieces of 1000 bytes."""
    texts = [b"2", b"x" * 125, b"y" * 126, b"z" * 70_000]
    data = b"".join(_server_frame(text) for text in texts)
    found, rest = list[bytes](), b""
    for start in range(0, len(data), 1000):
        some, rest = decode_frames(rest + data[start : start + 1000])
        found += some
    assert (found, rest) == (texts, b"")


def _server_frame(text: bytes) -> bytes:
    """Return a frame without a mask."""
    size = len(text)
    if size < 126:
        return bytes([0x81, size]) + text
    return (
        b"\x81\x7e" + size.to_bytes(2, "big")
        if size < 65_536
        else b"\x81\x7f" + size.to_bytes(8, "big")
    ) + text


def test_client_frames_have_a_mask_of_zeros() -> None:
    """The protocol requires a mask. A mask of zeros leaves the text unchanged."""
    assert encode_frame(b"hello") == b"\x81\x85\0\0\0\0hello"
    assert encode_frame(b"x" * 200)[:8] == b"\x81\xfe\x00\xc8\0\0\0\0"


# --- the results -------------------------------------------------------------------------------


def test_servers_take_turns() -> None:
    """The order is A B A B, not A A B B, so that load on the machine affects both."""
    turns = itertools.count(1)
    assert interleave(2, {"A": lambda: next(turns), "B": lambda: next(turns)}) == {
        "A": [1, 3],
        "B": [2, 4],
    }


def test_the_median_round_decides() -> None:
    """The median of the ratios decides whether a target is met. Without a target there is no verdict."""
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]
    assert Check("fast", [1.0, 5.0, 6.0], 4).met is True
    assert Check("slow", [1.0, 5.0, 6.0], 4, at_least=False).met is False
    assert Check("no target", [1.0]).met is None


def test_the_slope_of_a_cost_on_logarithmic_axes() -> None:
    """A constant cost has the slope 0, one that is proportional has 1, and a square has 2."""
    assert slope({10: [3.0], 1_000: [3.0, 3.0]}) == pytest.approx(0)
    assert slope({10: [1.0], 100: [10.0], 1_000: [100.0]}) == pytest.approx(1)
    assert slope({1: [1.0], 10: [100.0]}) == pytest.approx(2)


def test_curves_are_drawn(tmp_path: Path) -> None:
    """The picture of a result with curves has a line and a name for each of them."""
    curves: Curves = {"send": {10: [1.0], 100: [1.1]}, "read": {10: [0.3], 100: [0.2]}}
    result = Result("ms", {"send, 10 users": [1.0]}, [], {}, [], curves, "users").as_json()
    found = result | {"row": "lists", "title": "Lists", "target": "flat", "machine": {}}
    (tmp_path / "lists.json").write_text(json.dumps(found), encoding="utf-8")
    write_page(tmp_path, tmp_path / "README.md")
    picture = (tmp_path / "lists.svg").read_text(encoding="utf-8")
    assert all(f">{text}<" in picture for text in ("send", "read", "users", "ms"))


def test_the_page_keeps_the_hand_written_text(tmp_path: Path) -> None:
    """Results are written between two marks. The text around them does not change."""
    page = tmp_path / "README.md"
    page.write_text(f"by hand\n\n{BEGIN}\nold\n{END}\n\nalso by hand\n", encoding="utf-8")
    found: dict[str, Any] = {
        "row": "sends",
        "title": "Sends",
        "target": "many",
        "machine": {"cores": "2"},
    }
    found |= Result(
        "sends/s", {"chatlab": [3.0]}, [Check("chatlab / Express", [3.0], 2)], {"rounds": 1}, []
    ).as_json()
    (tmp_path / "sends.json").write_text(json.dumps(found), encoding="utf-8")
    write_page(tmp_path, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("by hand\n\n")
    assert text.endswith("\n\nalso by hand\n")
    assert "old" not in text
    assert "| chatlab / Express | 3 | 3 to 3 | at least 2 | met |" in text


# --- the peers and the command -----------------------------------------------------------------


def test_the_express_peer_names_no_registry() -> None:
    """The lock file has a hash for each package, and no address to download it from."""
    lock = json.loads((EXPRESS / "package-lock.json").read_text(encoding="utf-8"))
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)


def test_missing_programs_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    """Without wrk and Node the command works and prints how to install them."""
    python = tmp_path / "bin"
    python.mkdir()
    copy = tmp_path / "chatlab"
    shutil.copytree(
        ROOT / "benchmarks",
        copy / "benchmarks",
        ignore=shutil.ignore_patterns("node_modules", "results"),
    )
    environment = os.environ | {"PATH": str(python), "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, "--page", "--out", str(tmp_path / "results")]
    done = subprocess.run(
        command,
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = " ".join(done.stdout.split())
    assert "apt-get install wrk" in output
    assert "npm ci --prefix benchmarks/peers/express" in output


def test_an_unknown_benchmark_is_rejected(tmp_path: Path) -> None:
    """An unknown name is rejected with the list of benchmarks before anything is started."""
    command = [*COMMAND, "sendz", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2
    assert "sends" in done.stderr
