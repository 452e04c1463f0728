"""A crowd that reconnects at once, as after a restart, and how long the sends of a bystander take.

The crowd runs in a process of its own. A socket whose connection is refused tries again after a
second or less, as the client of Socket.IO does.
"""

import asyncio
import json
import random
import select
import subprocess
import sys
import time
from urllib.parse import urlsplit

from benchmarks.environment import Environment
from benchmarks.load.websocket import UPGRADE_HEADERS, UPGRADE_PATH, encode_frame
from benchmarks.processes import Server
from benchmarks.result import Check, Result
from benchmarks.users import make_users
from chatlab.bench.raw_http import END_OF_HEAD, encode_request
from chatlab.bench.samples import percentile
from chatlab.web.descriptors import raise_limit

SOCKETS = 2000
MAX_SECONDS, MAX_P99_MS = 10, 250
CROWD_LIMIT_S = 120  # for all sockets together
SEND_INTERVAL_S = 0.02
RETRY_S = 1.0
SEND = "/api/messages/send"


def measure_reconnects(environment: Environment) -> Result:
    """Measure how long a crowd of sockets takes to reconnect, and the sends of a bystander."""
    count = SOCKETS if environment.full_size else 50
    seconds, refusals, p99 = list[float](), list[float](), list[float]()
    for _ in range(environment.rounds):
        server = environment.chatlab(users=make_users(2 + count))
        took_s, refused, times_ms = _reconnect(server)
        seconds.append(took_s)
        refusals.append(refused)
        p99.append(percentile(times_ms, 99))
        environment.stop_servers()
    checks = [
        Check("seconds until all are connected", seconds, MAX_SECONDS, at_least=False),
        Check("refused connections", refusals, 0, at_least=False),
        Check("p99 of a bystander's send, ms", p99, MAX_P99_MS, at_least=False),
    ]
    settings = {"sockets, each of another user": count}
    return Result("ms", {"p99 of a bystander's send": p99}, checks, settings, [])


def _reconnect(server: Server) -> tuple[float, int, list[float]]:
    """Return the seconds that the crowd took, its refusals, and the ms of each send meanwhile.

    The first user sends; all but the first two are the crowd.
    """
    body = json.dumps({"receiverId": server.users[0].partner, "text": "hello"}).encode()
    command = [sys.executable, "-m", __name__, server.url]
    sends = list[tuple[float, float]]()  # when each began, and its ms
    with (
        server.connect() as client,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as crowd,
    ):
        assert crowd.stdin
        assert crowd.stdout
        client.request("POST", SEND, body)
        crowd.stdin.write(json.dumps([user.token for user in server.users[2:]]) + "\n")
        crowd.stdin.flush()
        while not select.select([crowd.stdout], [], [], SEND_INTERVAL_S)[0]:
            sends.append((time.monotonic(), client.request("POST", SEND, body).took_ms))
        began, ended, refused = json.loads(crowd.stdout.readline())
    # The crowd needs time to start, and stays until now, so that its end is not measured.
    meanwhile = [ms for at, ms in sends if began - ms / 1000 <= at <= ended]
    return ended - began, refused, meanwhile


# --- the process of the crowd ---------------------------------------------------------------------


async def _crowd(url: str, tokens: list[str]) -> tuple[float, float, int]:
    """Connect all sockets at once. Return when it began and ended, and the refusals."""
    began = time.monotonic()
    async with asyncio.timeout(CROWD_LIMIT_S):
        refusals = await asyncio.gather(*(_connect(url, token) for token in tokens))
    return began, time.monotonic(), sum(refusals)


async def _connect(url: str, token: str) -> int:
    """Connect a socket and leave it open. Return how often the service refused it before."""
    refused = 0
    while not await _is_accepted(url, token):
        refused += 1
        await asyncio.sleep(random.uniform(0.5, 1) * RETRY_S)
    return refused


async def _is_accepted(url: str, token: str) -> bool:
    parts = urlsplit(url)
    head = UPGRADE_HEADERS.format(host=parts.netloc)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        _open.append(writer)
        writer.write(encode_request("GET", UPGRADE_PATH, head, b""))
        if b" 101 " not in await reader.readuntil(END_OF_HEAD):
            return False
        await reader.readuntil(b"}")  # the first packet of Engine.IO
        writer.write(encode_frame(b"40" + json.dumps({"token": token}).encode()))
        return b"40{" in await reader.readuntil(b"}")
    except (OSError, EOFError):
        return False


_open: list[asyncio.StreamWriter] = []  # a writer that nothing refers to closes its connection


if __name__ == "__main__":
    raise_limit(SOCKETS)
    found = asyncio.run(_crowd(sys.argv[1], json.loads(sys.stdin.readline())))
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    sys.stdin.read()  # stay connected until the end of the measurement
