"""Benchmarks of throughput: as many requests a second as possible.

All servers of a benchmark run at once and are measured in turn.
"""

import time
from collections.abc import Callable

from pymongo import WriteConcern

from benchmarks import generators
from benchmarks.environment import CONNECTIONS, FLOOR, MESSAGES, Environment, missing_servers
from benchmarks.processes import Server
from benchmarks.result import Check, Result, interleave, ratios
from benchmarks.users import (
    TEXT,
    RequestLine,
    as_json,
    read_requests,
    send_requests,
    write_requests,
)
from chatlab.domain.ids import UserId
from chatlab.domain.message import create_draft

SOCKETS = 32
INSERT_SIZE = 32  # documents in each insert_many


def measure_sends(environment: Environment) -> Result:
    """Measure sends over HTTP, compared with the peers and with a bare insert_many."""
    servers = [environment.chatlab(), *environment.peers()]
    loads = {
        server.name: rate_of(environment, server, send_requests(server.users)) for server in servers
    }
    rates = interleave(environment.rounds, loads | {"insert_many alone": _insert_rate(environment)})
    remark = (
        f"insert_many: {INSERT_SIZE} documents in each call, one call after the other, with the same write concern: "
        "the most that MongoDB alone can do"
    )
    remarks = [remark, *missing_servers(environment)]
    return Result(
        "sends/s", rates, _compare_with_peers(rates, 4), _http_settings(environment), remarks
    )


def measure_cached(environment: Environment) -> Result:
    """Measure reads from Redis, compared with the peers and with a bare application."""
    ours = environment.chatlab(messages=MESSAGES)
    servers = [ours, *environment.peers(messages=MESSAGES), environment.floor(_replies(ours))]
    rates = interleave(environment.rounds, _read_loads(environment, servers))
    floor = ratios(rates["chatlab"], rates["bare ASGI + GET"])
    checks = [*_compare_with_peers(rates, 2), Check("chatlab / bare ASGI + one GET", floor, 0.5)]
    settings = _http_settings(environment) | {"messages": MESSAGES}
    return Result("reads/s", rates, checks, settings, missing_servers(environment))


def measure_uncached(environment: Environment) -> Result:
    """Measure reads from MongoDB, with the cache of every server turned off."""
    ours = environment.chatlab(messages=MESSAGES, CACHE_MODE="off")
    servers = [ours, *environment.peers(messages=MESSAGES, cache=False)]
    rates = interleave(environment.rounds, _read_loads(environment, servers))
    settings = _http_settings(environment) | {"messages": MESSAGES, "cache": "off"}
    return Result(
        "reads/s", rates, _compare_with_peers(rates, 2.5), settings, missing_servers(environment)
    )


def measure_sockets(environment: Environment) -> Result:
    """Measure sends over sockets that the sender's ack and the partner's event complete."""
    remarks: list[str] = []

    def load(server: Server) -> Callable[[], float]:
        users = as_json(server.users[:SOCKETS])

        def run() -> float:
            found = generators.run_own(
                "sockets", url=server.url, users=users, text=TEXT, seconds=environment.seconds
            )
            if found["lost"] > 0:
                remarks.append(
                    f"{server.name}: {found['lost']:.0f} messages did not reach the partner, {found['delivered']:.0f} did"
                )
            return found["rate"]

        return run

    servers = [environment.chatlab(), *environment.peers()]
    rates = interleave(environment.rounds, {server.name: load(server) for server in servers})
    settings = {
        "sockets": SOCKETS,
        "pending sends on each": 1,
        "generator": generators.OWN_GENERATOR,
        "seconds": environment.seconds,
    }
    remarks += missing_servers(environment)
    return Result(
        "acknowledged and delivered/s", rates, _compare_with_peers(rates, 2), settings, remarks
    )


def measure_workers(environment: Environment) -> Result:
    """Measure cached reads with two processes and with one.

    The engines and the load generator use the same cores.
    """
    servers = [
        environment.chatlab("1 process", messages=MESSAGES, WORKERS="1"),
        environment.chatlab("2 processes", messages=MESSAGES, WORKERS="2"),
    ]
    rates = interleave(environment.rounds, _read_loads(environment, servers))
    check = Check("2 processes / 1 process", ratios(rates["2 processes"], rates["1 process"]), 1.3)
    return Result(
        "reads/s", rates, [check], _http_settings(environment) | {"messages": MESSAGES}, []
    )


def rate_of(
    environment: Environment, server: Server, requests: list[RequestLine]
) -> Callable[[], float]:
    """Return a function that measures the rate of these requests, after a short warm-up."""
    path = write_requests(requests, environment.folder / f"{server.database}.requests")
    seconds, warm_up_s = environment.seconds, min(0.5, environment.seconds / 4)

    def run() -> float:
        generators.run_own(
            "closed", url=server.url, requests=str(path), seconds=warm_up_s, connections=CONNECTIONS
        )
        return generators.run_closed_loop(
            server.url, path, seconds=seconds, connections=CONNECTIONS
        )["rate"]

    return run


def _read_loads(environment: Environment, servers: list[Server]) -> dict[str, Callable[[], float]]:
    return {
        server.name: rate_of(environment, server, read_requests(server.users, MESSAGES))
        for server in servers
    }


def _insert_rate(environment: Environment) -> Callable[[], float]:
    """Return a function that measures insert_many, each call with messages of one conversation."""
    database = environment.mongo[FLOOR]
    messages = database["messages"].with_options(write_concern=WriteConcern(w="majority", j=True))

    def run() -> float:
        database.drop_collection("messages")
        count, started = 0, time.perf_counter()
        while not count or time.perf_counter() - started < environment.seconds:
            one, other = UserId(f"a{count}"), UserId(f"b{count}")
            drafts = [create_draft(one, other, TEXT, None) for _ in range(INSERT_SIZE)]
            messages.insert_many(
                [draft.document(seq) for seq, draft in enumerate(drafts, 1)], ordered=False
            )
            count += INSERT_SIZE
        return count / (time.perf_counter() - started)

    return run


def _replies(server: Server) -> dict[str, bytes]:
    """Return the reply to a read, by partner, so that the bare application sends the same bytes."""
    with server.connect() as client:
        reply = client.request(
            "GET", f"/api/messages/{server.users[0].partner}?limit={MESSAGES}"
        ).body
    return {user.partner: reply for user in server.users}


def _compare_with_peers(rates: dict[str, list[float]], target: float) -> list[Check]:
    """Return ratios to the peers. Only the ratio to Express has a target."""
    checks = []
    if "Express" in rates:
        checks.append(
            Check("chatlab / Express", ratios(rates["chatlab"], rates["Express"]), target)
        )
    if "plain FastAPI" in rates:
        checks.append(
            Check("chatlab / plain FastAPI", ratios(rates["chatlab"], rates["plain FastAPI"]))
        )
    return checks


def _http_settings(environment: Environment) -> dict[str, object]:
    return {
        "connections": CONNECTIONS,
        "users": environment.users,
        "seconds": environment.seconds,
        "generator": "wrk" if generators.has_wrk() else generators.OWN_GENERATOR,
    }
