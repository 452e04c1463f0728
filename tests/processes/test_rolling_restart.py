"""Two processes behind a real nginx are restarted one after the other, and no client notices."""

import asyncio
import re
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from faults import Deployment
from http_clients import open_client
from live import Service, User
from load import Account, check, write
from nginx import FILES, running_nginx
from waiting import LIMIT_S, wait_until

PAUSE_S = 0.02  # between two requests of a client: the processes need time to start meanwhile


@dataclass
class Traffic:
    """What the HTTP clients got. They never repeat a request, so every failure is seen."""

    account: Account = field(default_factory=Account)
    failures: list[str] = field(default_factory=list)
    reads: int = 0

    async def send(self, sender: User, receiver: User) -> None:
        """Send messages on one connection until the test is over."""
        number = 0
        while not self.account.stop:
            number += 1
            text = f"{id(sender)}-{number}"
            message = await self._ask(
                sender, "POST", "/api/messages/send", json={"receiverId": receiver.id, "text": text}
            )
            self.account.note(text, message)
            await asyncio.sleep(PAUSE_S)

    async def read(self, reader: User, partner: User) -> None:
        """Read the newest messages, each time on a new connection, until the test is over."""
        while not self.account.stop:
            async with open_client(reader.service.url, headers=reader.http.headers) as http:
                reader.http = http
                await self._ask(reader, "GET", f"/api/messages/{partner.id}?limit=5")
            self.reads += 1
            await asyncio.sleep(PAUSE_S)

    async def wait_for_answers(self, count: int) -> None:
        """Wait until `count` more messages are saved."""
        wanted = len(self.account.answered) + count
        await wait_until(lambda: len(self.account.answered) >= wanted, f"{count} more answers")

    async def _ask(self, user: User, method: str, path: str, **options: Any) -> Any:
        try:
            answer = await user.http.request(method, path, **options)
        except httpx.TransportError as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        if answer.status_code != 200:
            self.failures.append(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        return answer.json()


@pytest.mark.slow
async def test_no_request_fails_while_processes_restart(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Every request over HTTP is answered at the first try, also sends without a client id.

    A socket is closed with its process. Its client connects again, through nginx to the other
    process, and repeats the send that was not acknowledged, with the same client id.
    """
    keepalive_s = re.findall(r"keepalive_timeout (\d+)s", (FILES / "upstream.conf").read_text())
    settings = {"TRUSTED_PROXIES": "127.0.0.1", "DRAIN_SECONDS": str(int(keepalive_s[0]) + 2)}
    services = [deployment.start_patient(**settings) for _ in range(2)]
    with running_nginx(tmp_path / "nginx", "root.conf", *services) as url:
        proxy = cast("Service", SimpleNamespace(url=url))
        alice, bob, carol = (deployment.create_user(proxy) for _ in range(3))
        traffic, sockets = Traffic(), Account()
        work: list[Coroutine[Any, Any, None]] = []
        for _ in range(2):
            work += [
                traffic.send(await alice.at(proxy), bob),
                traffic.send(await bob.at(proxy), alice),
                traffic.read(await bob.at(proxy), alice),
                write(sockets, await alice.at(proxy), carol.id, transport="socket", repeat=True),
            ]
        tasks = [asyncio.create_task(one) for one in work]
        for service in services:
            service.process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(service.process.wait, LIMIT_S)
            assert status == 0, service.log.read_text()
            await asyncio.to_thread(service.restart)
            await traffic.wait_for_answers(20)
        traffic.account.stop = sockets.stop = True
        await asyncio.gather(*tasks)
        assert traffic.failures == []
        assert traffic.account.unanswered == []
        assert traffic.reads > 20
        assert sockets.unanswered == []
        check(traffic.account, (await alice.read(bob, fresh=True)).json())
        check(sockets, (await alice.read(carol, fresh=True)).json())
        await asyncio.gather(*(user.close() for user in (alice, bob, carol)))
