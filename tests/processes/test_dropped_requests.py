"""Clients may close their connection at any moment: afterwards the service is ready and answers a send."""

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Deployment
from http_clients import fetch, open_client
from live import Service, User
from raw_socket import raw_socket
from shared_service import store_messages
from waiting import LIMIT_S, wait_until

ROUNDS = 3  # without DriverCalls, one or two rounds leave the service stuck
AT_ONCE = 20  # requests in one round, each dropped at a different time
SPREAD_S = 0.06  # between the first drop and the last one
HISTORY = 4_000  # messages, which the service reads in four chunks


@pytest.fixture(scope="module")
def service(deployment: Deployment) -> Service:
    """One process without a limit for log-ins."""
    return deployment.start(LOGIN_LIMIT="0")


async def drop(service: Service, request: bytes, after_s: float, *, answered: bool = False) -> None:
    """Send a request and close the connection `after_s` later; `answered`: after the status line has come."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request)
        if answered:
            await reader.readline()
        await asyncio.sleep(after_s)
        writer.transport.abort()


def spelled(person: User, method: str, path: str, body: object = None) -> bytes:
    """Return an HTTP request as bytes."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {person.token}\r\nCache-Control: no-cache\r\n"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )


async def still_works(service: Service, sender: User, receiver: User) -> None:
    """`/readyz` and a send are answered with 200, and no driver call hangs.

    They may be answered with 503 first: a slow machine reaches the time limit of MongoDB.
    """
    async with open_client(service.url) as client:

        async def answers() -> tuple[str, str, str]:
            ready = await client.get("/readyz")
            sent = await sender.http.post(
                "/api/messages/send", json={"receiverId": receiver.id, "text": "still there?"}
            )
            return ready.text, sent.text, service.log.read_text()

        await wait_until(
            answers,
            "/readyz and a send to succeed",
            is_reached=lambda seen: '"ok"' in seen[0] and "still there?" in seen[1],
        )
        assert "chatlab_mongodb_calls_overdue 0.0" in (await client.get("/metrics")).text


async def test_full_reads(deployment: Deployment, service: Service) -> None:
    """Dropping the response with a long history after its status line does not damage the pool of MongoDB connections."""
    ann, bob = deployment.create_user(service), deployment.create_user(service)
    store_messages(deployment.database, ann.id, bob.id, itertools.repeat("x" * 200, HISTORY))
    request = spelled(ann, "GET", f"/api/messages/{bob.id}")
    for _ in range(ROUNDS):
        await asyncio.gather(
            *(
                drop(service, request, SPREAD_S * place / AT_ONCE, answered=True)
                for place in range(AT_ONCE)
            )
        )
        await still_works(service, ann, bob)
    await ann.close()
    await bob.close()


async def test_every_route(deployment: Deployment, service: Service) -> None:
    """Clients drop a request to every route, before and during the response."""
    ann, bob = deployment.create_user(service), deployment.create_user(service)
    message = await ann.send(bob, "one")
    for _ in range(ROUNDS):
        leaver = deployment.create_user(service)
        requests = [
            spelled(
                ann,
                "POST",
                "/api/auth/signup",
                {"username": f"n{secrets.token_hex(6)}", "password": "correct horse battery"},
            ),
            spelled(
                ann,
                "POST",
                "/api/auth/login",
                {"username": ann.id, "password": "correct horse battery"},
            ),
            spelled(leaver, "POST", "/api/auth/logout"),
            spelled(ann, "GET", "/api/auth/me"),
            spelled(ann, "GET", "/api/users"),
            *(
                spelled(
                    ann, "POST", "/api/messages/send", {"receiverId": bob.id, "text": f"{number}"}
                )
                for number in range(4)
            ),
            spelled(ann, "GET", f"/api/messages/{bob.id}?limit=50"),
            spelled(ann, "GET", f"/api/messages/{bob.id}?after=0&limit=2000"),
            spelled(ann, "PATCH", f"/api/messages/{message['_id']}", {"text": "two"}),
            spelled(ann, "PUT", f"/api/messages/{message['_id']}/reactions/%F0%9F%91%8D"),
            spelled(ann, "DELETE", f"/api/messages/{message['_id']}/reactions/%F0%9F%91%8D"),
            spelled(ann, "POST", f"/api/messages/{bob.id}/read", {"seq": 1}),
            spelled(ann, "GET", "/readyz"),
            spelled(ann, "GET", "/metrics"),
        ]
        await asyncio.gather(
            *(
                drop(service, request, SPREAD_S * place / len(requests))
                for place, request in enumerate(requests)
            )
        )
        await still_works(service, ann, bob)
        await leaver.close()
    await ann.close()
    await bob.close()


async def test_sockets_whose_handler_is_running(deployment: Deployment, service: Service) -> None:
    """Sockets close right after an event or while they connect, and the service forgets all of them."""
    ann, bob = deployment.create_user(service), deployment.create_user(service)
    events = [
        ("sendMessage", {"receiverId": bob.id, "text": "gone"}),
        ("markRead", {"userId": bob.id, "seq": 1}),
        ("typing", {"receiverId": bob.id, "typing": True}),
    ]
    await ann.send(bob, "one")

    async def leave_after(place: int) -> None:
        async with raw_socket(ann) as socket:
            await socket.send(f"42{place}{json.dumps(events[place % len(events)])}")
            await asyncio.sleep(SPREAD_S * place / AT_ONCE / 10)

    for _ in range(ROUNDS):
        await asyncio.gather(*(leave_after(place) for place in range(AT_ONCE)))
        await still_works(service, ann, bob)
    await wait_until(
        lambda: _sockets(service),
        "all sockets to be forgotten",
        is_reached=lambda count: count == 0,
    )
    await ann.close()
    await bob.close()


def _sockets(service: Service) -> float:
    lines = fetch(f"{service.url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("chatlab_sockets ")).split()[1])


async def test_during_start_and_stop(deployment: Deployment) -> None:
    """Requests that are dropped during start-up and shutdown do not disturb either."""
    service = deployment.start()
    ann, bob = deployment.create_user(service), deployment.create_user(service)
    send = spelled(ann, "POST", "/api/messages/send", {"receiverId": bob.id, "text": "dropped"})
    for _ in range(2):
        dropping = asyncio.gather(
            *(drop(service, send, SPREAD_S * place / AT_ONCE) for place in range(AT_ONCE))
        )
        service.process.send_signal(signal.SIGTERM)
        await dropping
        assert await asyncio.to_thread(service.process.wait, LIMIT_S) == 0, service.log.read_text()
        starting = asyncio.create_task(asyncio.to_thread(service.restart))
        while not starting.done():
            await drop(service, send, 0.01)
        await still_works(await starting, ann, bob)
    await ann.close()
    await bob.close()


# --- the limit for stopping -------------------------------------------------------------------------------------------------------

HANGS = {
    "closing": """
async def never(self):
    while True:
        try: await asyncio.sleep(3600)
        except asyncio.CancelledError: pass
store.Store.close = never
""",
    "event loop": """
real = store.Store.close
async def blocks(self):
    await real(self)
    time.sleep(3600)
store.Store.close = blocks
""",
}
PROGRAM = """
import asyncio, sys, time
from chatlab.store import store
{hang}
if __name__ == "__main__":
    from chatlab.cli import main
    sys.argv = ["chatlab", "serve"]
    main()
"""


def start_program(deployment: Deployment, program: Path, **settings: str) -> Service:
    """Start a program in place of `python -m chatlab serve`, as one more process of the deployment's service."""

    class Program(Service):
        def _start(self) -> "subprocess.Popen[bytes]":
            environment = os.environ | {
                f"CHATLAB_{name}": value for name, value in self.settings.items()
            }
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, str(program)], env=environment, stdout=log, stderr=log
                )

    given = {"DATABASE": deployment.database.name, "KEY_PREFIX": f"{deployment.space}:", **settings}
    service = Program(
        deployment.engines.mongo.url,
        deployment.engines.redis.url,
        deployment.folder / f"{program.parent.name}.log",
        **given,
    )
    deployment.services.append(service)
    return service.wait_until_ready()


@pytest.mark.parametrize(
    ("hang", "workers"), [("closing", "1"), pytest.param("event loop", "2", marks=pytest.mark.slow)]
)
async def test_a_process_that_cannot_stop_is_ended(
    deployment: Deployment, tmp_path: Path, hang: str, workers: str
) -> None:
    """Whatever hangs, the process exits with status 1 after its limit, logs what it left, and has saved every answered message."""
    program = tmp_path / "hanging.py"
    program.write_text(PROGRAM.format(hang=HANGS[hang]))
    service = start_program(deployment, program, SHUTDOWN_TIMEOUT="1", WORKERS=workers)
    ann, bob = deployment.create_user(service), deployment.create_user(service)
    answered = [await ann.send(bob, str(number)) for number in range(3)]

    service.process.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(service.process.wait, LIMIT_S)

    assert status == 1 or workers == "2"  # with several workers, the parent process ends normally
    assert "Not stopped 5 s after the signal; exiting now. Left: " in service.log.read_text()
    saved = deployment.database["messages"].find({"senderId": ann.id}).sort("seq", 1)
    assert [str(document["_id"]) for document in saved] == [message["_id"] for message in answered]
    await ann.close()
    await bob.close()
