"""The screens of two users, side by side. Each screen has its own socket, like a browser tab.

A message appears on a screen because that screen's socket received it, never because it was sent. A
screen whose connection is lost connects again and asks for the messages it missed by `seq`, as any
client does.
"""

import asyncio
import contextlib
import html
import time
from collections.abc import Callable
from datetime import datetime
from itertools import zip_longest
from typing import Any

import httpx
import socketio

from chatlab import client
from chatlab.client import Json
from chatlab.errors import ChatlabError
from chatlab.lab.said import words
from chatlab.lab.trace import table
from chatlab.lab.widgets.live import OWN, Paced

SHOWN = 30  # messages on a screen
AGAIN = 0.5  # seconds between two attempts to connect
OUT_OF_REACH = (ChatlabError, httpx.HTTPError, socketio.exceptions.SocketIOError)
SHAPE = (
    "_id",
    "seq",
    "version",
    "senderId",
    "text",
    "clientId",
    "reactions",
    "editedAt",
    "deletedAt",
)


class Tab(client.ChatClient):
    """Another tab of a signed-up user.

    `told` receives the events of its socket; `missed` fetches what the socket missed.
    """

    told: Callable[[client.ReceivedEvent], None]

    @classmethod
    def of(cls, person: client.ChatClient, told: Callable[[client.ReceivedEvent], None]) -> "Tab":
        tab = cls(person.url, person.user, person.token)
        tab.told = told
        return tab

    def _receive(self, event: str, *payload: Any) -> None:
        super()._receive(event, *payload)
        self.told(self.received.pop())


class Pane:
    """The screen of one user, as JSON from `shown()`.

    An item's `tookMs` counts from the send, or from `createdAt` for a message that was not sent
    here.
    """

    def __init__(
        self, person: client.ChatClient, other: client.ChatClient, changed: Callable[[], None]
    ) -> None:
        self.tab, self.other, self._changed = Tab.of(person, self._heard), other.id, changed
        self.items: dict[str, Json] = {}
        self.open, self.typing, self.trouble = False, False, ""
        # client id -> when it was sent here, in milliseconds since 1970
        self.sent: dict[str, float] = {}

    def shown(self) -> Json:
        items = sorted(self.items.values(), key=lambda item: item["seq"])
        return {
            "id": self.tab.id,
            "open": self.open,
            "typing": self.typing,
            "trouble": self.trouble,
            "items": items,
        }

    def set(self, **what: Any) -> None:
        """Set `open`, `typing` or `trouble`."""
        vars(self).update(what)
        self._changed()

    async def stay_open(self) -> None:
        """Keep the socket connected: connect again after every disconnect."""
        try:
            while True:
                with contextlib.suppress(*OUT_OF_REACH):
                    await self._connect()
                    await self.tab.socket.wait()
                self.set(open=False, typing=False)
                await asyncio.sleep(AGAIN)
        finally:
            await self.tab.close()

    async def _connect(self) -> None:
        await self.tab.connect()
        self.set(open=True)
        if self.items:
            last = max(item["seq"] for item in self.items.values())
            for message in (await self.tab.read(self.other, after=last)).messages:
                self._take(message, None)

    def _heard(self, heard: client.ReceivedEvent) -> None:
        told = heard.payload
        if heard.event in ("newMessage", "messageUpdated") and {
            told["senderId"],
            told["receiverId"],
        } == {self.tab.id, self.other}:
            self._take(told, heard.at if heard.event == "newMessage" else None)
        elif heard.event == "typing" and told["userId"] == self.other:
            self.set(typing=told["typing"])

    def _take(self, message: Json, at: float | None) -> None:
        """Add a message, or a newer version of one.

        `at` is the time its event arrived, or None if the message was fetched.
        """
        item = {name: message[name] for name in SHAPE}
        former = self.items.get(message["_id"])
        if former:
            item["tookMs"] = former["tookMs"]
        else:
            sent = (
                self.sent.get(message["clientId"])
                or datetime.fromisoformat(message["createdAt"]).timestamp() * 1000
            )
            item["tookMs"] = None if at is None else at - sent
        if former is None or former["version"] < message["version"]:
            self.items[message["_id"]] = item
            for key in sorted(self.items, key=lambda key: self.items[key]["seq"])[:-SHOWN]:
                del self.items[key]
        if message["senderId"] == self.other:
            self.typing = False
        self._changed()

    async def do(self, asked: Json) -> None:
        """Do what the user did at this screen.

        Either `{do: "send", text, door, clientId}` or `{do: "typing", typing}`.
        """
        try:
            if asked["do"] == "typing":
                await self.tab.socket.emit(
                    "typing", {"receiverId": self.other, "typing": asked["typing"]}
                )
            else:
                await self._send(asked)
                self.set(trouble="")
        except Exception as wrong:  # noqa: BLE001 - any error is shown on the screen
            self.set(trouble=f"Not sent: {words(wrong)}")

    async def _send(self, asked: Json) -> None:
        send = self.tab.send_by_socket if asked["door"] == "socket" else self.tab.send_by_http
        await send(self.other, asked["text"], clientId=asked["clientId"])


class Chat(Paced):
    """Two screens. `model` has what `Pane.shown` returns for `left` and `right`."""

    drawing = OWN / "chat.js"

    def __init__(self, left: client.ChatClient, right: client.ChatClient, **traits: Any) -> None:
        self._panes = {
            "left": Pane(left, right, self.changed),
            "right": Pane(right, left, self.changed),
        }
        for pane in self._panes.values():
            pane.sent = self._sent = self._panes["left"].sent
        self._asked = asyncio.Queue[Json]()
        super().__init__(**traits)
        self.on_hand(self._asked.put_nowait)

    def state(self) -> Json:
        return {side: pane.shown() for side, pane in self._panes.items()}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as doing:
            for pane in self._panes.values():
                doing.create_task(pane.stay_open())
            while True:
                asked = await self._asked.get()
                if asked["do"] == "send":
                    self._sent[asked["clientId"]] = time.time() * 1000
                doing.create_task(self._panes[asked["side"]].do(asked))

    def snapshot(self) -> str:
        screens = self.state().values()
        rows = zip_longest(
            *([_in_words(item) for item in screen["items"]] for screen in screens), fillvalue=""
        )
        shown = table([f"{screen['id']}'s screen" for screen in screens], list(rows))
        return f"<p>{html.escape(repr(self))}</p>\n{shown}"

    def __repr__(self) -> str:
        left, right = (pane.tab.id for pane in self._panes.values())
        return f"The screens of {left} and {right}: live in a running notebook."


def _in_words(item: Json) -> str:
    took = "" if item["tookMs"] is None else f" ({item['tookMs']:.1f} ms)"
    return f"{item['senderId']}: {item['text']}{took}"
