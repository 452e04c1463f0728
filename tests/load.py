"""Many concurrent writers over both transports of any number of processes, and a record of their
answers.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import socketio
from faults import Deployment
from http_clients import fetch
from live import Service, User
from waiting import LIMIT_S, wait_until

log = logging.getLogger(__name__)

Message = dict[str, Any]
PAUSE_S = 0.05  # between two sends of a watched writer, and between two reads of a reader
RETRY_DELAY_S = 0.05  # after a send that was not answered


@dataclass
class Account:
    """A record of sends: answered, not answered, and waiting for an answer.

    Each send has a unique text. `failures` counts the requests without an answer, which are more
    than `unanswered` if a send was repeated. `reads` has the time, the reader and X-Cache of each
    read.
    """

    answered: dict[str, Message] = field(default_factory=dict)
    answered_at: list[tuple[float, int]] = field(default_factory=list)  # monotonic, with the seq
    unanswered: list[str] = field(default_factory=list)
    waiting: dict[str, Service] = field(default_factory=dict)
    failures: int = 0
    reads: list[tuple[float, str, str]] = field(default_factory=list)
    stop: bool = False

    def note(self, text: str, message: Message | None) -> None:
        """Record the answer of a send, or that there was none."""
        if message is None:
            self.unanswered.append(text)
        else:
            assert message["text"] == text
            self.answered[text] = message
            self.answered_at.append((time.monotonic(), message["seq"]))

    def highest_seq(self, before: float) -> int:
        """Return the highest seq of the messages that were answered before this moment."""
        return max((seq for at, seq in self.answered_at if at < before), default=0)

    def cached_again_s(self, since: float) -> float | None:
        """Return how long after this moment all readers got hits again.

        Returns None until each of them has had a read that was no hit, and then a hit.
        """
        hit_at = dict[str, float]()
        for reader in {reader for _, reader, _ in self.reads}:
            later = ((at, cache) for at, who, cache in self.reads if who == reader and at > since)
            missed = itertools.dropwhile(lambda read: read[1] == "hit", later)
            hit_at[reader] = next((at for at, cache in missed if cache == "hit"), math.inf)
        found = max(hit_at.values(), default=math.inf)
        return None if found == math.inf else found - since

    def longest_pause_s(self) -> float:
        """Return the longest time in which no send was answered."""
        times = [at for at, _ in self.answered_at]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


async def write(
    account: Account,
    sender: User,
    receiver: str,
    *,
    transport: str,
    repeat: bool = False,
    count: int = 1_000_000,
    pause_s: float = 0,
) -> None:
    """Send `count` messages, one after the other, or until `account.stop`.

    With `repeat`, each send has a client id and is repeated until it is answered.
    """
    for _ in range(count):
        if account.stop:
            return
        text = f"{sender.id} {transport} {secrets.token_hex(6)}"
        request = {"receiverId": receiver, "text": text} | (
            {"clientId": text[-12:]} if repeat else {}
        )
        message = await _send(account, sender, request, transport)
        while message is None and repeat:
            await asyncio.sleep(RETRY_DELAY_S)
            message = await _send(account, sender, request, transport)
        account.note(text, message)
        await asyncio.sleep(RETRY_DELAY_S if message is None else pause_s)


async def _send(
    account: Account, sender: User, request: dict[str, str], transport: str
) -> Message | None:
    """Return the message in the answer; None after a 503 or without an answer."""
    account.waiting[request["text"]] = sender.service
    message = None
    try:
        with contextlib.suppress(
            httpx.TransportError, socketio.exceptions.SocketIOError, TimeoutError
        ):
            message = await (_by_http if transport == "http" else _by_socket)(sender, request)
    finally:
        del account.waiting[request["text"]]
    account.failures += message is None
    return message


async def _by_http(sender: User, request: dict[str, str]) -> Message | None:
    answer = await sender.http.post("/api/messages/send", json=request)
    assert answer.status_code in (200, 503), answer.text
    return answer.json() if answer.status_code == 200 else None


async def _by_socket(sender: User, request: dict[str, str]) -> Message | None:
    if not sender.sockets or not sender.sockets[0].connected:
        sender.sockets.clear()
        try:
            await sender.connect()
        except TypeError as error:  # python-engineio takes the code of a close frame for a packet
            raise socketio.exceptions.ConnectionError("closed while connecting") from error
    ack = await _call(sender.sockets[0], request)
    assert ack["ok"] or ack["error"]["code"] == "store_unavailable", ack
    return ack["message"] if ack["ok"] else None


async def _call(client: socketio.AsyncClient, request: dict[str, str]) -> Any:
    """Return the acknowledgement. Raises TimeoutError if the connection ends before it comes."""
    call = asyncio.create_task(client.call("sendMessage", request, timeout=LIMIT_S))
    await asyncio.wait(
        (call, client.eio.read_loop_task), return_when=asyncio.FIRST_COMPLETED
    )  # the read loop ends with the connection
    if not call.done():
        call.cancel()
        raise TimeoutError
    return call.result()


def check(account: Account, conversation: list[Message]) -> None:
    """Check that no answered message was lost or changed, none was saved twice, and no seq is
    missing.
    """
    assert [message["seq"] for message in conversation] == list(range(1, len(conversation) + 1))
    found: dict[str, Message] = {}
    for message in conversation:
        assert message["text"] not in found, f"saved twice: {message}"
        found[message["text"]] = message
    missing = {
        text: message for text, message in account.answered.items() if found.get(text) != message
    }
    assert not missing, f"answered but lost: {missing}"
    assert set(found) <= set(account.answered) | set(account.unanswered)


async def more_answers(account: Account, count: int) -> None:
    """Wait until this many more sends have been answered."""
    enough = len(account.answered) + count
    await wait_until(
        lambda: len(account.answered),
        f"{enough} answers",
        is_reached=lambda answers: answers >= enough,
    )


@contextlib.asynccontextmanager
async def under_load(
    deployment: Deployment, services: Sequence[Service], *, pause_s: float = 0
) -> AsyncIterator[tuple[Account, User, User]]:
    """Run eight writers of one conversation, and check what they saved in the end.

    They are both users, with both transports, of two processes, with and without client ids.
    """
    account = Account()
    alice, bob = deployment.create_user(services[0]), deployment.create_user(services[1])
    people = [
        await person.at(service)
        for person in (alice, bob)
        for service in services
        for _ in range(2)
    ]
    other = {alice.id: bob.id, bob.id: alice.id}
    writers = [
        asyncio.create_task(
            write(
                account,
                person,
                other[person.id],
                transport=("http", "socket")[place % 2],
                repeat=place % 4 < 2,
                pause_s=pause_s,
            )
        )
        for place, person in enumerate(people)
    ]
    try:
        await more_answers(account, 100)
        yield account, alice, bob
        await more_answers(account, 100)
    finally:
        account.stop = True
        await asyncio.wait_for(asyncio.gather(*writers), LIMIT_S)
    for fresh in (True, False):
        check(account, (await bob.read(alice, fresh=fresh)).json())
    await asyncio.gather(*(person.close() for person in [*people, alice, bob]))


@contextlib.asynccontextmanager
async def watched_load(
    deployment: Deployment,
    services: Sequence[Service],
    *,
    ttl_s: float,
    may_fail: bool = True,
) -> AsyncIterator[Account]:
    """Run writers and readers. Every read has all messages that were answered a TTL before it.

    In the end, every process is ready. Without `may_fail`, every request must succeed.
    """
    is_over, statuses = asyncio.Event(), (200, 503) if may_fail else (200,)
    async with under_load(deployment, services, pause_s=PAUSE_S) as (account, alice, bob):
        readers = [
            asyncio.create_task(_read(account, reader, other, ttl_s, statuses, is_over))
            for reader, other in ((alice, bob), (bob, alice))
        ]
        yield account
        is_over.set()
        counts = await asyncio.gather(*readers)
    log.info(
        "%d sends answered, %d not; %d requests failed; no answer for %.1f s at most; %d reads answered",
        len(account.answered),
        len(account.unanswered),
        account.failures,
        account.longest_pause_s(),
        sum(counts),
    )
    assert min(counts) > 0
    assert may_fail or not account.failures
    for service in services:
        assert fetch(f"{service.url}/readyz").json()["status"] == "ok"


async def _read(
    account: Account,
    reader: User,
    other: User,
    ttl_s: float,
    statuses: tuple[int, ...],
    is_over: asyncio.Event,
) -> int:
    """Read until `is_over`, and return the number of reads that were answered."""
    answered = 0
    while not is_over.is_set():
        expected = account.highest_seq(before=time.monotonic() - ttl_s)
        answer = await reader.read(other, limit=20)
        assert answer.status_code in statuses, answer.text
        if answer.status_code == 200:
            answered += 1
            cache = answer.headers["x-cache"]
            assert answer.json()[-1]["seq"] >= expected, cache
            account.reads.append((time.monotonic(), reader.id, cache))
        await asyncio.sleep(PAUSE_S)
    return answered
