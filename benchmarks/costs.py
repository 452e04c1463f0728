"""What each operation costs: CPU time of the service, of Redis and of MongoDB, and bytes.

`python -m benchmarks.capacity` computes from the results what more users would need.
"""

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
from redis import Redis

from benchmarks import generators
from benchmarks.environment import CONNECTIONS, MESSAGES, Environment
from benchmarks.joining import GROUP, make_groups
from benchmarks.processes import Server
from benchmarks.result import Check, Result
from benchmarks.users import (
    TEXT,
    RequestLine,
    as_json,
    make_users,
    read_requests,
    send_requests,
    write_requests,
)
from chatlab.domain.ids import UserId
from chatlab.realtime.presence import LEAVE_DELAY_S, PresenceReport

READS_PER_SECOND, MISSES_PER_SECOND, SENDS_PER_SECOND, CONNECTS_PER_SECOND = 1_000, 250, 200, 50
SOCKETS = 32  # that send
IDLE, FEW_IDLE = 5_000, 40
REPORTED = 20  # users in a report of presence
REPORT_INTERVAL_S = 0.005
LONG_TTL_S = 600  # every cached read is a hit
PARTS = ("service", "Redis", "MongoDB")
READ, UNCACHED_READ = f"cached read of {MESSAGES}", f"uncached read of {MESSAGES}"
SEND, SOCKET_SEND = "send over HTTP", "send over a socket, with its two events"
CONNECT = f"socket that connects and leaves, with {GROUP - 1} partners"
SOCKET_KB = "KB for each idle socket"
SOCKET_US = "µs of CPU time a second for each idle socket"
SOCKET_MONGO_US = "µs of CPU time of MongoDB a second for each idle socket"
OPERATIONS = (READ, UNCACHED_READ, SEND, SOCKET_SEND, CONNECT)
ELSEWHERE_US = "µs of CPU time for each user who comes or goes in another process"
ELSEWHERE_BYTES = "bytes in memory for each user online elsewhere"
MESSAGE_BYTES = "bytes stored for each message, with its indexes, without compression"

Load = Callable[[str, float], generators.Figures]  # url of the service, seconds


def bytes_of(operation: str) -> str:
    """Return the name of the check with the bytes between a client and the service."""
    return f"{operation}: bytes to and from the clients"


class Meter:
    """The CPU time of a server and of both engines, and what they use without requests."""

    def __init__(self, environment: Environment, server: Server) -> None:
        self._environment, self._server = environment, server
        started, before = time.perf_counter(), self._seconds()
        time.sleep(max(0.5, environment.seconds))
        took_s = time.perf_counter() - started
        self._idle = [used / took_s for used in self._since(before)]

    def measure(self, load: Callable[[], generators.Figures]) -> list[float]:
        """Return the CPU time of each part for one request, in microseconds."""
        started, before = time.perf_counter(), self._seconds()
        found = load()
        took_s = time.perf_counter() - started
        used = zip(self._since(before), self._idle, strict=True)
        return [1e6 * (one - idle * took_s) / found["requests"] for one, idle in used]

    def _since(self, before: list[float]) -> list[float]:
        return [now - then for now, then in zip(self._seconds(), before, strict=True)]

    def _seconds(self) -> list[float]:
        redis: Any = self._environment.redis.info("cpu")
        mongo = self._environment.mongo.admin.command("serverStatus")["extra_info"]  # on Linux
        return [
            self._server.cpu_seconds(),
            redis["used_cpu_user"] + redis["used_cpu_sys"],
            (mongo.get("user_time_us", 0) + mongo.get("system_time_us", 0)) / 1e6,
        ]


class CountingRelay:
    """Passes TCP connections on to a service, and counts the bytes in both directions."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.bytes = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> str:
        self._thread.start()
        self._is_ready.wait()
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        starting = asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self._server = self._loop.run_until_complete(starting)
        self._is_ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._server.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = self._target.hostname, self._target.port
        their_reader, their_writer = await asyncio.open_connection(*place)
        await asyncio.gather(self._copy(reader, their_writer), self._copy(their_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                self.bytes += len(data)
                writer.write(data)
        writer.close()


def measure_costs(environment: Environment) -> Result:
    """Measure each operation at a constant rate, far from the most that the machine can do."""
    plain = environment.chatlab(messages=MESSAGES)
    cached = environment.chatlab("cached", messages=MESSAGES, CACHE_TTL=str(LONG_TTL_S))
    uncached = environment.chatlab("uncached", messages=MESSAGES, CACHE_MODE="off")
    groups = environment.chatlab("groups", users=make_users(200 if environment.full_size else 20))
    make_groups(environment.mongo[groups.database], groups)
    sends = send_requests(plain.users)
    hits, misses = (read_requests(server.users, MESSAGES) for server in (cached, uncached))
    operations: dict[str, tuple[Server, Load]] = {
        READ: (cached, _paced(environment, cached, hits, READS_PER_SECOND)),
        UNCACHED_READ: (uncached, _paced(environment, uncached, misses, MISSES_PER_SECOND)),
        SEND: (plain, _paced(environment, plain, sends, SENDS_PER_SECOND)),
        SOCKET_SEND: (plain, _socket_sends(plain)),
        CONNECT: (groups, _connections(groups)),
    }
    series: dict[str, list[float]] = {}
    checks: list[Check] = []
    for operation, (server, load) in operations.items():
        load(server.url, environment.seconds / 2)  # fills caches, and opens connections
        meter = Meter(environment, server)
        for _ in range(environment.rounds):
            used = meter.measure(partial(load, server.url, environment.seconds))
            for part, cpu_us in zip(PARTS, used, strict=True):
                series.setdefault(f"{part}, {operation}", []).append(cpu_us)
        checks.append(_count_bytes(environment, server, operation, load))
    checks.append(_stored_bytes(environment, plain))
    environment.stop_servers()
    checks += _measure_online_users(environment)
    settings = {
        "cached reads a second": READS_PER_SECOND,
        "uncached reads a second": MISSES_PER_SECOND,
        "sends a second": SENDS_PER_SECOND,
        "connections a second": CONNECTS_PER_SECOND,
        "users": environment.users,
        "seconds": environment.seconds,
    }
    remark = "The CPU time without requests is subtracted. Sends over sockets come as fast as 32 sockets can."
    return Result("µs of CPU time", series, checks, settings, [remark])


def _paced(
    environment: Environment, server: Server, requests: list[RequestLine], rate: int
) -> Load:
    path = write_requests(requests, environment.folder / f"{server.database}.requests")
    return lambda url, seconds: generators.run_own(
        "paced",
        url=url,
        requests=str(path),
        rate=rate,
        connections=CONNECTIONS,
        seconds=seconds,
    )


def _socket_sends(server: Server) -> Load:
    users = as_json(server.users[:SOCKETS])
    return lambda url, seconds: generators.run_own(
        "sockets", url=url, users=users, text=TEXT, seconds=seconds
    )


def _connections(server: Server) -> Load:
    """Return a load of users who connect, learn who is online, and leave at the end."""
    users = as_json(server.users)

    def load(url: str, seconds: float) -> generators.Figures:
        joined = generators.run_own(
            "joining", url=url, users=users, seconds=len(users) / CONNECTS_PER_SECOND
        )
        time.sleep(min(2 * LEAVE_DELAY_S, 2 * seconds))  # until the others know that they have left
        return joined

    return load


def _count_bytes(environment: Environment, server: Server, operation: str, load: Load) -> Check:
    relay = CountingRelay(server.url)
    with relay as url:
        found = load(url, min(1.0, environment.seconds))
    return Check(bytes_of(operation), [relay.bytes / found["requests"]])


def _stored_bytes(environment: Environment, server: Server) -> Check:
    environment.mongo.admin.command("fsync")  # so that the sizes of the indexes are up to date
    found = environment.mongo[server.database].command("collStats", "messages")
    return Check(MESSAGE_BYTES, [(found["size"] + found["totalIndexSize"]) / found["count"]])


def _measure_online_users(environment: Environment) -> list[Check]:
    """Measure idle sockets, and what a process needs to know of users at another one."""
    count = IDLE if environment.full_size else FEW_IDLE
    room, prefix = str(2 * count), "costs:"  # the same prefix: the processes are of one service
    users = make_users(count)
    here = environment.chatlab(users=users, MAX_CONNECTIONS=room, KEY_PREFIX=prefix)
    elsewhere = environment.chatlab_like(here, "another process", KEY_PREFIX=prefix)
    pause_s = min(2 * LEAVE_DELAY_S, 4 * environment.seconds)
    time.sleep(pause_s)  # until the processes know each other
    meter = Meter(environment, here)
    here_bytes, elsewhere_bytes = here.resident_bytes(), elsewhere.resident_bytes()
    with contextlib.ExitStack() as stack:

        def connect() -> None:
            stack.enter_context(generators.open_idle_sockets(here.url, as_json(here.users)))
            time.sleep(pause_s)  # until all reports have arrived

        def wait() -> generators.Figures:
            time.sleep(window_s := max(0.5, 2.5 * environment.seconds))
            return {"requests": count * window_s}

        connect()
        socket_kb = (here.resident_bytes() - here_bytes) / count / 1000
        known_bytes = (elsewhere.resident_bytes() - elsewhere_bytes) / count
        idle_us = [meter.measure(wait) for _ in range(environment.rounds)]
    time.sleep(pause_s)  # until the users have left
    report = partial(_report_users, environment.redis, f"{prefix}*:presence", count)
    other_meter = Meter(environment, elsewhere)
    online_us = [other_meter.measure(report)[0] for _ in range(environment.rounds)]
    return [
        Check(SOCKET_KB, [socket_kb]),
        Check(SOCKET_US, [service_us for service_us, _, _ in idle_us]),
        Check(SOCKET_MONGO_US, [mongo_us for _, _, mongo_us in idle_us]),
        Check(ELSEWHERE_US, online_us),
        Check(ELSEWHERE_BYTES, [known_bytes]),
    ]


def _report_users(redis: Redis, channels: str, count: int) -> generators.Figures:
    """Report users who come to a process and then go, as that process would."""
    [channel] = redis.pubsub_channels(channels)
    users = [UserId(f"other{number:06}") for number in range(count)]
    groups = [users[start : start + REPORTED] for start in range(0, count, REPORTED)]
    name = secrets.token_hex(4)
    reports = [PresenceReport(name, 0, is_whole=True)]
    reports += [PresenceReport(name, n, joined=group) for n, group in enumerate(groups, 1)]
    reports += [
        PresenceReport(name, n, left=group) for n, group in enumerate(groups, 1 + len(groups))
    ]
    for report in reports:
        redis.publish(channel, msgspec.json.encode(report))
        time.sleep(REPORT_INTERVAL_S)
    return {"requests": 2 * count}
