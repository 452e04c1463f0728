"""Benchmarks of costs: memory of idle sockets, CPU time of the sweeper, and the time to start."""

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
from benchmarks.environment import CONNECTIONS, Environment, missing_servers
from benchmarks.processes import Server, running
from benchmarks.result import Check, MeasurementError, Result, interleave, ratios
from benchmarks.users import (
    BenchUser,
    Json,
    as_json,
    insert_chatlab_data,
    make_users,
    send_requests,
    write_requests,
)
from chatlab.bench.raw_http import RawHttpClient
from chatlab.local.engines import open_engines
from chatlab.settings import load_settings

IDLE_SOCKETS = 1000
IDLE_CROWD = 10_000
WARM_UP_SOCKETS = 10
LIVE_KEYS = 100_000
SENDS_PER_SECOND = 200
KEY_TTL_S = 100  # longer than a round; the sweeper shortens what is longer than the service's TTL
POLL_INTERVAL_S = 0.005
SERVE = [sys.executable, "-m", "chatlab", "serve", "--attached"]


def measure_idle(environment: Environment) -> Result:
    """Measure the memory of a socket that is open and authenticated, but sends nothing."""
    count = IDLE_SOCKETS if environment.full_size else 50
    servers = [environment.chatlab(), *environment.peers()]
    sizes = {
        server.name: [_kb_for_each_socket(server, count, environment.seconds)] for server in servers
    }
    checks = [Check("KB for each idle socket", sizes["chatlab"], 45, at_least=False)]
    settings = {"sockets": count, "users": environment.users}
    return Result("KB each", sizes, checks, settings, missing_servers(environment))


def _kb_for_each_socket(server: Server, count: int, seconds: float) -> float:
    users = [server.users[number % len(server.users)] for number in range(count)]
    # The first sockets cause one-time costs, and every socket causes events for the others.
    with generators.open_idle_sockets(server.url, as_json(users[:WARM_UP_SOCKETS])):
        time.sleep(min(1.0, seconds))
        before = server.resident_bytes()
        with generators.open_idle_sockets(server.url, as_json(users)) as opened:
            time.sleep(min(3.0, 4 * seconds))  # until all these events are sent
            return (server.resident_bytes() - before) / opened / 1000


def measure_idle_crowd(environment: Environment) -> Result:
    """Measure the memory and the CPU time of very many idle sockets in one process."""
    count = IDLE_CROWD if environment.full_size else 50
    server = environment.chatlab(MAX_CONNECTIONS=str(2 * count))
    users = [server.users[number % len(server.users)] for number in range(count)]
    before = server.resident_bytes()
    with generators.open_idle_sockets(server.url, as_json(users)) as opened:
        time.sleep(min(3.0, 4 * environment.seconds))  # until all events are sent
        size_kb = (server.resident_bytes() - before) / opened / 1000
        window_s = max(0.5, 2.5 * environment.seconds)
        shares = [100 * cpu_share(server, window_s) for _ in range(environment.rounds)]
    checks = [
        Check("KB for each idle socket", [size_kb], 42, at_least=False),
        Check("% of a core", shares, 5, at_least=False),
    ]
    settings = {"sockets": count, "users": environment.users, "seconds": window_s}
    return Result("KB each", {"chatlab": [size_kb]}, checks, settings, [])


def measure_sweep(environment: Environment) -> Result:
    """Measure the sweeper with 100,000 live keys.

    The figures are its CPU time for each sweep and the latency of a concurrent send.
    """
    count, interval_s = (LIVE_KEYS, 1.0) if environment.full_size else (1000, 0.1)
    server = environment.chatlab(SWEEP_INTERVAL=str(interval_s), CACHE_TTL=str(KEY_TTL_S))
    path = write_requests(send_requests(server.users), environment.folder / "sweep.requests")
    spec = {
        "url": server.url,
        "requests": str(path),
        "rate": SENDS_PER_SECOND,
        "connections": CONNECTIONS,
        "seconds": environment.seconds,
    }
    window_s = max(interval_s, environment.seconds)
    without, with_keys, cpu_ms = list[float](), list[float](), list[float]()
    for _ in range(environment.rounds):
        environment.redis.flushdb()
        time.sleep(2 * interval_s)  # a sweep that finds the keys gone
        without.append(generators.run_own("paced", **spec)["p99"])
        idle = cpu_share(server, window_s)
        write_keys(environment, count, KEY_TTL_S)
        time.sleep(2 * interval_s)  # a sweep that finds the keys for the first time
        with_keys.append(generators.run_own("paced", **spec)["p99"])
        cpu_ms.append((cpu_share(server, window_s) - idle) * interval_s * 1000)
    checks = [
        Check(
            "seconds of CPU time for each sweep", [ms / 1000 for ms in cpu_ms], 0.5, at_least=False
        ),
        Check(
            "p99 of a send: with / without live keys",
            ratios(with_keys, without),
            1.3,
            at_least=False,
        ),
    ]
    series = {
        "p99 of a send without live keys": without,
        "p99 of a send with": with_keys,
        "CPU time of a sweep": cpu_ms,
    }
    settings = {
        "live keys": count,
        "sends a second": SENDS_PER_SECOND,
        "sweep interval": f"{interval_s:g} s",
        "seconds": environment.seconds,
    }
    return Result("ms", series, checks, settings, [])


def cpu_share(server: Server, seconds: float) -> float:
    """Return the CPU seconds that the server uses in each second without requests.

    `seconds` is how long to measure and should cover at least one sweep.
    """
    before, started = server.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (server.cpu_seconds() - before) / (time.perf_counter() - started)


def write_keys(environment: Environment, count: int, ttl_s: int) -> None:
    """Write keys like those of the service, with a TTL that is longer than a round."""
    for start in range(0, count, 1000):
        pipeline = environment.redis.pipeline(transaction=False)
        for number in range(start, start + 1000):
            pipeline.set(f"message:{number:024x}", "x" * 500, ex=ttl_s)
        pipeline.execute()


def measure_start(environment: Environment) -> Result:
    """Measure the time from the command to the first response, and of importing the package."""
    with tempfile.TemporaryDirectory(prefix="chatlab-start-", ignore_cleanup_errors=True) as folder:
        private = {"mongo_url": None, "redis_url": None, "data_dir": Path(folder)}
        users = make_users(2)
        settings = load_settings().model_copy(update=private)
        with open_engines(settings) as engines, MongoClient[Json](engines.mongo.url) as mongo:
            insert_chatlab_data(mongo["chatlab"], users, 0)
        measurements = {
            "start to first response": lambda: _seconds_to_first_response(folder, users[0])
        }
        modules = ("chatlab", "chatlab.web.app")
        measurements |= {
            f"import {module}": partial(_seconds_to_import, module) for module in modules
        }
        seconds = interleave(environment.rounds, measurements)
    checks = [
        Check(
            "seconds to the first response", seconds["start to first response"], 3, at_least=False
        ),
        Check("seconds to import chatlab", seconds["import chatlab"], 0.3, at_least=False),
    ]
    return Result(
        "s", seconds, checks, {"data folder": "used before", "engines": "not running"}, []
    )


def _seconds_to_first_response(folder: str, user: BenchUser) -> float:
    started = time.perf_counter()
    variables = {"CHATLAB_DATA_DIR": folder, "CHATLAB_PORT": "0"}
    body = json.dumps({"receiverId": user.partner, "text": "first"}).encode()
    with tempfile.TemporaryFile() as log, running(SERVE, variables, log) as process:
        while not (url := _url_in_first_line(log)):
            if process.poll() is not None:
                raise MeasurementError("The service did not start.")
            time.sleep(POLL_INTERVAL_S)
        while True:
            try:
                with RawHttpClient(url, user.token) as client:
                    reply = client.request("POST", "/api/messages/send", body)
            except OSError:  # the service is not listening yet
                time.sleep(POLL_INTERVAL_S)
                continue
            assert reply.status == 200, reply.body
            return time.perf_counter() - started


def _url_in_first_line(log: IO[bytes]) -> str:
    log.seek(0)
    first, end, _ = log.read(1000).partition(b"\n")
    return first.decode() if end and first.startswith(b"http") else ""


def _seconds_to_import(module: str) -> float:
    code = f"import time; started = time.perf_counter(); import {module}; print(time.perf_counter() - started)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return float(done.stdout)
