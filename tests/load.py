"""Many concurrent writers over both transports of any number of processes, and a record of their
answers.
"""

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx
import socketio
from live import Service, User
from waiting import LIMIT_S

Message = dict[str, Any]
RETRY_DELAY_S = 0.05  # after a send that was not answered


@dataclass
class Account:
    """A record of sends: answered, not answered, and waiting for an answer.

    Each send has a unique text.
    """

    answered: dict[str, Message] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    waiting: dict[str, Service] = field(default_factory=dict)
    stop: bool = False

    def note(self, text: str, message: Message | None) -> None:
        """Record the answer of a send, or that there was none."""
        if message is None:
            self.unanswered.append(text)
        else:
            assert message["text"] == text
            self.answered[text] = message


async def write(
    account: Account,
    sender: User,
    receiver: str,
    *,
    transport: str,
    repeat: bool = False,
    count: int = 1_000_000,
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
        if message is None:
            await asyncio.sleep(RETRY_DELAY_S)


async def _send(
    account: Account, sender: User, request: dict[str, str], transport: str
) -> Message | None:
    """Return the message in the answer; None after a 503 or without an answer."""
    account.waiting[request["text"]] = sender.service
    try:
        return await (_by_http if transport == "http" else _by_socket)(sender, request)
    except (httpx.TransportError, socketio.exceptions.SocketIOError, TimeoutError):
        return None
    finally:
        del account.waiting[request["text"]]


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
