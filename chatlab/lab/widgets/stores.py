"""One message in MongoDB, in its cache entry and in its conversation window, with differences.

MongoDB is the source of truth. A copy with a lower version is stale. The kernel reads all three
places while a view is visible, and updates the model when something has changed. The browser counts
down the time that is left.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from chatlab.client import Json
from chatlab.domain.ids import conversation_of
from chatlab.lab.session_stores import SessionStores, value_of
from chatlab.lab.tables import table_html
from chatlab.lab.trace import Trace
from chatlab.lab.widgets.live import OWN, Live

READ_INTERVAL_S = 0.25
# A deadline that differs by more than this has been moved.
SAME_DEADLINE_MS = 100
FIELDS = ("text", "version", "reactions", "editedAt", "deletedAt")
PLACES = {"store": "MongoDB", "message": "Redis, the message", "window": "Redis, the conversation"}


class Stores(Live):
    """One message in three places.

    `open_stores` may raise an error, which is shown. While `recording` is held, nothing is read.

    `model` is `{id, places: {store, message, window}}`. A place is `{where, key, found: {...} |
    None, deadlineMs, stale, trouble}`.
    """

    drawing = OWN / "stores.js"

    def __init__(
        self,
        of: Trace | str,
        open_stores: Callable[[], SessionStores],
        recording: asyncio.Lock,
        **traits: Any,
    ) -> None:
        self._open_stores, self._recording = open_stores, recording
        self._id = (of.id if isinstance(of, Trace) else of).removeprefix("message:")
        self._window = (
            f"messages:{conversation_of(of.message['senderId'], of.message['receiverId'])}"
            if isinstance(of, Trace)
            else ""
        )
        self._visible = asyncio.Event()
        self._views = 0
        super().__init__(model=self.read(), **traits)
        self.on_drawing_message(lambda content: self._count_view(content["views"]))

    @property
    def kind(self) -> str:
        return f"Stores of {self._id}"

    def make_room(self) -> None:
        """Keep the last state visible, to compare a message before and after a change."""
        if self.task:
            self.task.cancel()
        self.resting = True

    # --- reading the stores -----------------------------------------------------------------------

    def read(self) -> Json:
        """Read all three places now, and return the model."""
        store = self._place("store", "messages", self._find_in_mongo)
        if not self._window and store["found"]:
            self._window = f"messages:{conversation_of(store['found']['senderId'], store['found']['receiverId'])}"
        places = {
            "store": store,
            "message": self._place("message", f"message:{self._id}", self._find_entry),
            "window": self._place("window", self._window, self._find_in_window),
        }
        for place in places.values():
            place["differs"] = _differences(store["found"], place["found"])
        return {"id": self._id, "places": places, "sentMs": time.time() * 1000}

    def _place(self, name: str, key: str, find: Callable[[str], Json | None]) -> Json:
        place: Json = {
            "where": PLACES[name],
            "key": key,
            "found": None,
            "deadlineMs": None,
            "trouble": "",
        }
        try:
            place["found"] = find(key)
            if name != "store" and key:
                pttl = self._open_stores().redis.pttl(key)
                place["deadlineMs"] = time.time() * 1000 + pttl if pttl >= 0 else None
                place["kept"] = pttl == -1
        except Exception as error:  # noqa: BLE001 - an engine may be stopped on purpose
            # the error's message may contain an address
            place["trouble"] = f"no answer ({type(error).__name__})"
        return place

    def _find_in_mongo(self, _collection: str) -> Json | None:
        return next(iter(self._open_stores().find_messages(_id=self._id)), None)

    def _find_entry(self, key: str) -> Json | None:
        return _message(value_of(self._open_stores().redis, key))

    def _find_in_window(self, key: str) -> Json | None:
        value = value_of(self._open_stores().redis, key) if key else None
        entries = (
            [entry for entry in map(_message, value[1:]) if entry]
            if isinstance(value, list)
            else []
        )
        return next((entry for entry in entries if entry.get("_id") == self._id), None)

    # --- background task --------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._visible.wait()
            async with self._recording:
                now = await asyncio.to_thread(self.read)
            if _differ(self.model, now):
                self.model = now
            await asyncio.sleep(READ_INTERVAL_S)

    def _count_view(self, change: int) -> None:
        """Count a view that was opened (1) or closed (-1)."""
        self._views += change
        if self._views > 0:
            self._visible.set()
        else:
            self._visible.clear()

    def snapshot(self) -> str:
        self.model = self.read()
        rows = [
            (place["where"], place["key"], _place_text(place))
            for place in self.model["places"].values()
        ]
        return table_html(("where", "key", "what is there"), rows)

    def __repr__(self) -> str:
        return "\n".join(
            f"{place['where']:<25}{_place_text(place)}" for place in self.model["places"].values()
        )


def _message(value: Any) -> Json | None:
    try:
        message = json.loads(value)
    except (TypeError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _differences(truth: Json | None, copy: Json | None) -> list[str]:
    """Return the names of the fields in which the copy differs from MongoDB."""
    return [name for name in FIELDS if truth and copy and truth.get(name) != copy.get(name)]


def _differ(before: Json, now: Json) -> bool:
    """Return True if something has changed.

    A deadline that is computed again differs by the time that the read took. That is no change.
    """
    for name, place in now["places"].items():
        former = before["places"][name]
        if {**former, "deadlineMs": 0} != {**place, "deadlineMs": 0}:
            return True
        if abs((former["deadlineMs"] or 0) - (place["deadlineMs"] or 0)) > SAME_DEADLINE_MS:
            return True
    return False


def _place_text(place: Json) -> str:
    if place["trouble"]:
        return str(place["trouble"])
    if place["found"] is None:
        # a window may exist without this message
        return "not in it" if place["deadlineMs"] else "not there"
    stale = f", stale: {', '.join(place['differs'])}" if place["differs"] else ""
    return f"version {place['found']['version']}: {place['found']['text']!r}{stale}"
