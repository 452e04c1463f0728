"""Attacks on sign-up and log-in, and how long the log-ins of another user take meanwhile.

Each attack runs in a process of its own. Attackers and users have different loopback addresses,
which Linux provides.
"""

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import httpx

from benchmarks.environment import Environment
from benchmarks.processes import Server
from benchmarks.result import Check, MeasurementError, Result
from chatlab.bench.samples import percentile

PASSWORD = "the bystander logs in"  # noqa: S105 - of a user that exists for a minute
TIMEOUT_S = 60
MAX_P95_MS = 500
NO_ANSWER = 0  # instead of a status
SIGN_UP, LOG_IN = "/api/auth/signup", "/api/auth/login"

Statuses = Counter[int]  # how often the server answered with each status


class Found(NamedTuple):
    """The log-ins of one user during an attack. `attack` counts the answers to the attacker."""

    attack: Statuses
    times_ms: list[float]
    failed: int


class Attack(NamedTuple):
    """`connections` clients send requests until the time is over, or each sends `requests`.

    They come from `addresses` loopback addresses. `path` and `names` say what they send: `one`
    tries one name, `many` tries another name each time.
    """

    title: str
    path: str
    names: str
    connections: int
    addresses: int = 1
    requests: int = 0
    seconds: float = 0


ATTACKS = (
    Attack("no attack", LOG_IN, "one", 0),
    Attack("300 log-ins at a time from one address", LOG_IN, "one", 300),
    Attack("300 log-ins at a time from one address, another name each time", LOG_IN, "many", 300),
    Attack("60 sign-ups at a time", SIGN_UP, "many", 60),
    Attack("60 sign-ups at a time from 30 addresses", SIGN_UP, "many", 60, addresses=30),
    Attack("400 guesses for one name from 40 addresses", LOG_IN, "one", 40, 40, 10),
    Attack("400 guesses from one address, one for each name", LOG_IN, "many", 40, requests=10),
)


def measure_log_ins(environment: Environment) -> Result:
    """Measure the latency of the log-ins of one user, whose name is attacked, during each attack.

    Each attack meets a service of its own, with the default settings.
    """
    series: dict[str, list[float]] = {}
    checks = []
    for attack in ATTACKS:
        found = []
        for _ in range(environment.rounds):
            timed = attack._replace(seconds=environment.seconds)
            found.append(_measure_attack(environment.chatlab(), timed))
            environment.stop_servers()
        for percent, label in ((50, "p50"), (95, "p95"), (100, "max")):
            series[f"{label}, {attack.title}"] = [
                percentile(one.times_ms, percent) for one in found
            ]
        p95 = series[f"p95, {attack.title}"]
        checked = [float(one.attack[401]) for one in found]
        checks += [
            Check(
                f"{attack.title}: p95 of the user's log-ins, ms", p95, MAX_P95_MS, at_least=False
            ),
            Check(
                f"{attack.title}: failed log-ins", [one.failed for one in found], 0, at_least=False
            ),
            Check(f"{attack.title}: guesses that were checked", checked),
        ]
    return Result("ms", series, checks, {"seconds": environment.seconds}, [])


def _measure_attack(server: Server, attack: Attack) -> Found:
    """Attack the server. The user whose name is attacked logs in every half a second meanwhile."""
    url, victim = server.url, f"victim-{secrets.token_hex(3)}"
    transport = httpx.HTTPTransport(local_address="127.0.9.9")
    with httpx.Client(base_url=url, transport=transport, timeout=TIMEOUT_S) as http:
        account = {"username": victim, "password": PASSWORD}
        if (signed_up := http.post(SIGN_UP, json=account)).status_code != 201:
            raise MeasurementError(f"The service rejected a sign-up: {signed_up.text}")
        command = [sys.executable, "-m", __name__, url, victim, json.dumps(attack)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
            assert attacker.stdout
            attacker.stdout.readline()  # the attack begins
            answers = list(_log_in_until_the_end(http, account, attacker))
            attacked = {int(status): n for status, n in json.load(attacker.stdout).items()}
    failed = sum(status != 200 for status, _ in answers)
    return Found(Counter(attacked), [ms for _, ms in answers], failed)


def _log_in_until_the_end(
    http: httpx.Client, account: dict[str, str], attacker: "subprocess.Popen[str]"
) -> Iterator[tuple[int, float]]:
    """Yield the status and the latency in ms of each log-in."""
    time.sleep(0.3)
    while True:
        started = time.perf_counter()
        status = http.post(LOG_IN, json=account).status_code
        yield status, 1000 * (time.perf_counter() - started)
        if attacker.poll() is not None:
            return
        time.sleep(0.5)


# --- the process of an attack -------------------------------------------------------------------


async def _attack(url: str, victim: str, attack: Attack) -> Statuses:
    names = (f"{secrets.token_hex(3)}-{number}" for number in count())
    statuses, ends_at = Statuses(), time.monotonic() + attack.seconds

    async def client(address: str) -> None:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(base_url=url, transport=transport, timeout=TIMEOUT_S) as http:
            for _ in _turns(attack, ends_at):
                name = victim if attack.names == "one" else next(names)
                account = {"username": name, "password": "a wrong guess " + secrets.token_hex(4)}
                try:
                    statuses[(await http.post(attack.path, json=account)).status_code] += 1
                except httpx.TransportError:
                    statuses[NO_ANSWER] += 1

    sys.stdout.write("begin\n")
    sys.stdout.flush()
    addresses = [f"127.0.1.{1 + n % attack.addresses}" for n in range(attack.connections)]
    await asyncio.gather(*map(client, addresses))
    if not attack.requests:
        await asyncio.sleep(ends_at - time.monotonic())
    return statuses


def _turns(attack: Attack, ends_at: float) -> Iterator[int]:
    """Yield once for each request of a client."""
    for turn in count():
        if turn == attack.requests if attack.requests else time.monotonic() >= ends_at:
            return
        yield turn


if __name__ == "__main__":
    url, victim, attack = sys.argv[1:]
    statuses = asyncio.run(_attack(url, victim, Attack(*json.loads(attack))))
    sys.stdout.write(json.dumps(statuses))
