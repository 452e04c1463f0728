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
from chatlab.lab.plain_text import error_text
from chatlab.lab.tables import table_html
from chatlab.lab.widgets.live import OWN, Paced

MAX_MESSAGES = 30  # on a screen
RECONNECT_DELAY_S = 0.5
CONNECTION_ERRORS = (ChatlabError, httpx.HTTPError, socketio.exceptions.SocketIOError)
FIELDS = (
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
    """Another tab of a signed-up user. `on_event` receives the events of its socket."""

    def __init__(
        self, user: client.ChatClient, on_event: Callable[[client.ReceivedEvent], None]
    ) -> None:
        super().__init__(user.url, user.user, user.token)
        self._on_event = on_event

    def _receive(self, event: str, *payload: Any) -> None:
        super()._receive(event, *payload)
        self._on_event(self.received.pop())


class Pane:
    """The screen of one user, as JSON from `shown()`.

    `sent` has the time in milliseconds since 1970 at which each client id was sent from either
    screen. An item's `tookMs` counts from then, or from `createdAt` for a message that was not sent
    here.
    """

    def __init__(
        self,
        user: client.ChatClient,
        other: client.ChatClient,
        sent: dict[str, float],
        on_change: Callable[[], None],
    ) -> None:
        self.tab, self.other = Tab(user, self._on_event), other.id
        self._sent, self._on_change = sent, on_change
        self.items: dict[str, Json] = {}
        self.open, self.typing, self.trouble = False, False, ""

    def shown(self) -> Json:
        items = sorted(self.items.values(), key=lambda item: item["seq"])
        return {
            "id": self.tab.id,
            "open": self.open,
            "typing": self.typing,
            "trouble": self.trouble,
            "items": items,
        }

    def set(self, **state: Any) -> None:
        """Set `open`, `typing` or `trouble`."""
        vars(self).update(state)
        self._on_change()

    async def stay_open(self) -> None:
        """Keep the socket connected; reconnect after every disconnect."""
        try:
            while True:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await self._connect()
                    await self.tab.socket.wait()
                self.set(open=False, typing=False)
                await asyncio.sleep(RECONNECT_DELAY_S)
        finally:
            await self.tab.close()

    async def _connect(self) -> None:
        await self.tab.connect()
        self.set(open=True)
        if self.items:
            last = max(item["seq"] for item in self.items.values())
            for message in (await self.tab.read(self.other, after=last)).messages:
                self._take(message, None)

    def _on_event(self, received: client.ReceivedEvent) -> None:
        name, payload = received.event, received.payload
        if name in ("newMessage", "messageUpdated"):
            if {payload["senderId"], payload["receiverId"]} == {self.tab.id, self.other}:
                self._take(payload, received.at if name == "newMessage" else None)
        elif name == "typing" and payload["userId"] == self.other:
            self.set(typing=payload["typing"])

    def _take(self, message: Json, at: float | None) -> None:
        """Add a message, or a newer version of one.

        `at` is the time its event arrived, or None if the message was fetched.
        """
        item = {name: message[name] for name in FIELDS}
        former = self.items.get(message["_id"])
        if former:
            item["tookMs"] = former["tookMs"]
        else:
            sent = (
                self._sent.get(message["clientId"])
                or datetime.fromisoformat(message["createdAt"]).timestamp() * 1000
            )
            item["tookMs"] = None if at is None else at - sent
        if former is None or former["version"] < message["version"]:
            self.items[message["_id"]] = item
            for key in sorted(self.items, key=lambda key: self.items[key]["seq"])[:-MAX_MESSAGES]:
                del self.items[key]
        if message["senderId"] == self.other:
            self.typing = False
        self._on_change()

    async def do(self, action: Json) -> None:
        """Do what the user did at this screen.

        Either `{do: "send", text, door, clientId}` or `{do: "typing", typing}`.
        """
        try:
            if action["do"] == "typing":
                await self.tab.socket.emit(
                    "typing", {"receiverId": self.other, "typing": action["typing"]}
                )
            else:
                await self._send(action)
                self.set(trouble="")
        except Exception as error:  # noqa: BLE001 - any error is shown on the screen
            self.set(trouble=f"Not sent: {error_text(error)}")

    async def _send(self, action: Json) -> None:
        send = self.tab.send_by_socket if action["door"] == "socket" else self.tab.send_by_http
        await send(self.other, action["text"], clientId=action["clientId"])


class Chat(Paced):
    """Two screens. `model` has what `Pane.shown` returns for `left` and `right`."""

    drawing = OWN / "chat.js"

    def __init__(self, left: client.ChatClient, right: client.ChatClient, **traits: Any) -> None:
        self._sent: dict[str, float] = {}
        self._panes = {
            "left": Pane(left, right, self._sent, self.changed),
            "right": Pane(right, left, self._sent, self.changed),
        }
        self._actions = asyncio.Queue[Json]()
        super().__init__(**traits)
        self.on_drawing_message(self._actions.put_nowait)

    def state(self) -> Json:
        return {side: pane.shown() for side, pane in self._panes.items()}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for pane in self._panes.values():
                tasks.create_task(pane.stay_open())
            while True:
                action = await self._actions.get()
                if action["do"] == "send":
                    self._sent[action["clientId"]] = time.time() * 1000
                tasks.create_task(self._panes[action["side"]].do(action))

    def snapshot(self) -> str:
        screens = self.state().values()
        rows = zip_longest(
            *([_item_text(item) for item in screen["items"]] for screen in screens), fillvalue=""
        )
        shown = table_html([f"{screen['id']}'s screen" for screen in screens], list(rows))
        return f"<p>{html.escape(repr(self))}</p>\n{shown}"

    def __repr__(self) -> str:
        left, right = (pane.tab.id for pane in self._panes.values())
        return f"The screens of {left} and {right}: live in a running notebook."


def _item_text(item: Json) -> str:
    took = "" if item["tookMs"] is None else f" ({item['tookMs']:.1f} ms)"
    return f"{item['senderId']}: {item['text']}{took}"
