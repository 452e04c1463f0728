"""What happens to an account takes effect in all processes, and what operators do for users."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from argon2 import PasswordHasher
from http_clients import open_client
from live import PASSWORD, Service, User
from shared_service import SharedService, UserMaker
from waiting import LIMIT_S, wait_until

HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)  # quick to verify


@pytest.fixture(scope="module")
def there(shared: SharedService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Another process of the shared service."""
    log = tmp_path_factory.mktemp("there") / "service.log"
    with shared.another_process(log, KEY_PREFIX=shared.prefix) as other:
        yield other.service


async def send(user: User, receiver: str) -> httpx.Response:
    """Send a message."""
    return await user.http.post(
        "/api/messages/send", json={"receiverId": receiver, "text": "hello"}
    )


async def test_a_block_takes_effect_in_all_processes(new_user: UserMaker, there: Service) -> None:
    """At once in the process that was asked, within 5 s in one that knew the receiver already."""
    ann, bob = new_user(), new_user()
    ann_there = await ann.at(there)
    assert [(await send(one, bob.id)).status_code for one in (ann, ann_there)] == [200, 200]
    assert (await bob.http.put(f"/api/users/{ann.id}/block")).status_code == 204
    missing = (await send(ann, "nobody-at-all")).content
    assert (await send(ann, bob.id)).content == missing
    refused = await wait_until(
        lambda: send(ann_there, bob.id),
        "the other process to refuse the message",
        is_reached=lambda answer: answer.status_code == 404,
    )
    assert refused.content == missing
    assert (await bob.http.delete(f"/api/users/{ann.id}/block")).status_code == 204
    assert [(await send(one, bob.id)).status_code for one in (ann, ann_there)] == [200, 200]
    await ann_there.close()


async def test_a_deleted_account_ends_in_all_processes(
    shared: SharedService, new_user: UserMaker, there: Service
) -> None:
    """Its sockets are closed everywhere, its token ends, and no process accepts messages for it."""
    ann, bob = new_user(), new_user()
    shared.database["users"].update_one({"_id": ann.id}, {"$set": {"passwordHash": HASH}})
    ann_there, bob_there = await ann.at(there), await bob.at(there)
    sockets = [await ann.connect(), await ann_there.connect()]
    assert [(await send(one, ann.id)).status_code for one in (bob, bob_there)] == [200, 200]
    answer = await ann.http.request("DELETE", "/api/auth/me", json={"password": PASSWORD})
    assert answer.status_code == 204
    await wait_until(lambda: not any(one.connected for one in sockets), "both sockets to be closed")
    await wait_until(
        lambda: ann_there.http.get("/api/auth/me"),
        "the other process to reject the token",
        is_reached=lambda answer: answer.status_code == 401,
    )
    await wait_until(
        lambda: send(bob_there, ann.id),
        "the other process to refuse the message",
        is_reached=lambda answer: answer.status_code == 404,
    )
    await asyncio.gather(ann_there.close(), bob_there.close())


def chatlab(service: Service, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with the settings of a service, and return its output."""
    environment = {f"CHATLAB_{name}": value for name, value in service.settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "chatlab", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


async def test_an_operator_resets_a_password(shared: SharedService, new_user: UserMaker) -> None:
    """The command prints a password that works, and ends all sessions of the user."""
    ann = new_user()
    socket = await ann.connect()
    done = chatlab(shared.service, "user", "reset-password", ann.id)
    assert (done.returncode, done.stderr) == (0, "")
    async with open_client(shared.service.url) as http:
        body = {"username": ann.id, "password": done.stdout.strip()}
        assert (await http.post("/api/auth/login", json=body)).status_code == 200
    await wait_until(lambda: not socket.connected, "the socket of the old session to be closed")


def test_an_unknown_user_has_no_password_to_reset(shared: SharedService) -> None:
    """The command explains this in a sentence and exits with 1."""
    done = chatlab(shared.service, "user", "reset-password", "nobody-at-all")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no user with this name.\n"
