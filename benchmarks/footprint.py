"""Rows about what it costs: memory of idle sockets, processor time of the worker, the time to start."""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import IO

from pymongo import MongoClient

from benchmarks import generators
from benchmarks.people import Json, Person, as_json, people, sends, settle_in_chatlab, write_requests
from benchmarks.result import Check, MeasurementError, Result, interleaved, ratios
from benchmarks.sides import CONNECTIONS, Place, Side, missing, running
from chatlab.bench.raw_http import RawHttpClient
from chatlab.local.engines import open_engines
from chatlab.settings import load_settings

RESTING = 1000
LIVE_KEYS = 100_000


def measure_idle(place: Place) -> Result:
    """What a socket costs in memory that is open, authenticated, and says nothing."""
    count = RESTING if place.full_size else 50
    found = {side.name: [_each_socket(side, count, place.seconds)] for side in [place.chatlab(), *place.peers()]}
    checks = [Check("KB for each idle socket", found["chatlab"], 45, False)]
    return Result("KB each", found, checks, {"sockets": count, "users": place.users}, missing(place))


def _each_socket(side: Side, count: int, seconds: float) -> float:
    who = [side.people[number % len(side.people)] for number in range(count)]
    with generators.resting_sockets(side.url, as_json(who[:10])):
        time.sleep(min(1.0, seconds))  # what the first sockets cost once is not theirs; everybody is told who is online
        before = side.resident()
        with generators.resting_sockets(side.url, as_json(who)) as there:
            time.sleep(min(3.0, 4 * seconds))  # until everything that connecting caused has been said
            return (side.resident() - before) / there / 1000


def measure_sweep(place: Place) -> Result:
    """Measure the sweeper with 100,000 live keys: its CPU time for each sweep, and the latency of a concurrent send."""
    count, interval_s = (LIVE_KEYS, 1.0) if place.full_size else (1000, 0.1)
    side = place.chatlab(SWEEP_INTERVAL=str(interval_s))
    path = write_requests(sends(side.people), place.folder / "sweep.requests")
    spec = {"url": side.url, "requests": str(path), "rate": 200, "connections": CONNECTIONS, "seconds": place.seconds}
    found: dict[str, list[float]] = {"p99 of a send without": [], "p99 of a send with": [], "CPU ms a beat": []}
    for _ in range(place.rounds):
        place.redis.flushdb()
        time.sleep(2 * interval_s)  # one sweep that finds that they are gone
        found["p99 of a send without"].append(generators.own("paced", **spec)["p99"])
        resting = _cpu_share(side, max(interval_s, place.seconds))
        _fill(place, count)
        time.sleep(2 * interval_s)  # one sweep that finds them for the first time
        found["p99 of a send with"].append(generators.own("paced", **spec)["p99"])
        found["CPU ms a beat"].append((_cpu_share(side, max(interval_s, place.seconds)) - resting) * interval_s * 1000)
    checks = [
        Check("seconds of CPU a beat", [ms / 1000 for ms in found["CPU ms a beat"]], 0.5, False),
        Check("p99 of a send: with / without", ratios(found["p99 of a send with"], found["p99 of a send without"]), 1.3, False),
    ]
    return Result(
        "ms", found, checks, {"live keys": count, "sends a second": 200, "beat": f"{interval_s:g} s", "seconds": place.seconds}, []
    )


def _cpu_share(side: Side, seconds: float) -> float:
    """Return the CPU seconds for each second that passes while no request arrives. `seconds` should hold one sweep or more."""
    before, started = side.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (side.cpu_seconds() - before) / (time.perf_counter() - started)


def _fill(place: Place, count: int) -> None:
    """Keys as the service makes them, which live until the round is over."""
    for start in range(0, count, 1000):
        pipeline = place.redis.pipeline(transaction=False)
        for number in range(start, start + 1000):
            pipeline.set(f"message:{number:024x}", "x" * 500, px=100_000)
        pipeline.execute()


def measure_start(place: Place) -> Result:
    """From the command to the first answered message, engines included; and the import of the package."""
    with tempfile.TemporaryDirectory(prefix="chatlab-start-", ignore_cleanup_errors=True) as folder:
        settings = load_settings().model_copy(update={"mongo_url": None, "redis_url": None, "data_dir": Path(folder)})
        one = people(2)
        with open_engines(settings) as engines, MongoClient[Json](engines.mongo.url) as mongo:
            settle_in_chatlab(mongo["chatlab"], one, 0)
        acts = {"start to first answer": lambda: _first_answer(folder, one[0])}
        acts |= {f"import {module}": partial(_import, module) for module in ("chatlab", "chatlab.web.app")}
        found = interleaved(place.rounds, acts)
    checks = [
        Check("seconds to the first answered message", found["start to first answer"], 3, False),
        Check("seconds to import chatlab", found["import chatlab"], 0.3, False),
    ]
    return Result("s", found, checks, {"data folder": "used before", "engines": "not running"}, [])


def _first_answer(folder: str, one: Person) -> float:
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log, running(_SERVE, {"CHATLAB_DATA_DIR": folder, "CHATLAB_PORT": "0"}, log) as process:
        while not (told := _first_line(log)):
            if process.poll() is not None:
                raise MeasurementError("The service did not start.")
            time.sleep(0.005)  # a file, which does not tell when it grows
        while True:
            try:
                with RawHttpClient(told, one.token) as wire:
                    reply = wire.request("POST", "/api/messages/send", json.dumps({"receiverId": one.partner, "text": "first"}).encode())
            except OSError:
                time.sleep(0.005)  # nobody listens yet
                continue
            assert reply.status == 200, reply.body
            return time.perf_counter() - started


_SERVE = [sys.executable, "-m", "chatlab", "serve", "--attached"]


def _first_line(log: IO[bytes]) -> str:
    log.seek(0)
    first, end, _ = log.read(1000).partition(b"\n")
    return first.decode() if end and first.startswith(b"http") else ""


def _import(module: str) -> float:
    code = f"import time; started = time.perf_counter(); import {module}; print(time.perf_counter() - started)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout)
