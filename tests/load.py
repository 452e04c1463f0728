"""Many writers at once, through both doors of any number of processes, and the account of what they were answered."""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx
import socketio
from live import Person

Message = dict[str, Any]


@dataclass
class Account:
    """What was answered, by text (no two sends have the same), and what was not."""

    answered: dict[str, Message] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    stop: bool = False

    def note(self, text: str, message: Message | None) -> None:
        if message is None:
            self.unanswered.append(text)
        else:
            assert message["text"] == text
            self.answered[text] = message


async def write(account: Account, sender: Person, receiver: str, *, door: str, repeat: bool = False, count: int = 1_000_000) -> None:
    """Send one message after the other until told to stop. `repeat`: with client ids, each send repeated until it is answered."""
    for _ in range(count):
        if account.stop:
            return
        text = f"{sender.id} {door} {secrets.token_hex(6)}"
        asked = {"receiverId": receiver, "text": text} | ({"clientId": text[-12:]} if repeat else {})
        message = await _send(sender, asked, door)
        while message is None and repeat:
            await asyncio.sleep(0.05)  # between two tries
            message = await _send(sender, asked, door)
        account.note(text, message)
        if message is None:
            await asyncio.sleep(0.02)  # something is down: not so fast


async def _send(sender: Person, asked: dict[str, str], door: str) -> Message | None:
    """The message of the answer; None for a 503, or for none at all."""
    with contextlib.suppress(httpx.TransportError, socketio.exceptions.SocketIOError, TimeoutError):
        return await (_by_http if door == "http" else _by_socket)(sender, asked)
    return None


async def _by_http(sender: Person, asked: dict[str, str]) -> Message | None:
    answer = await sender.http.post("/api/messages/send", json=asked)
    assert answer.status_code in (200, 503), answer.text
    return answer.json() if answer.status_code == 200 else None


async def _by_socket(sender: Person, asked: dict[str, str]) -> Message | None:
    if not sender.sockets or not sender.sockets[0].connected:
        sender.sockets.clear()
        await sender.connect()
    ack = await sender.sockets[0].call("sendMessage", asked, timeout=2)
    assert ack["ok"] or ack["error"]["code"] == "store_unavailable", ack
    return ack["message"] if ack["ok"] else None


def check(account: Account, conversation: list[Message]) -> None:
    """Every answered message is there once, as it was answered; every unanswered one at most once; no seq is left out."""
    assert [message["seq"] for message in conversation] == list(range(1, len(conversation) + 1))
    there: dict[str, Message] = {}
    for message in conversation:
        assert message["text"] not in there, "doubled"
        there[message["text"]] = message
    missing = {text: message for text, message in account.answered.items() if there.get(text) != message}
    assert not missing, f"answered and lost: {missing}"
    assert set(there) <= set(account.answered) | set(account.unanswered)
