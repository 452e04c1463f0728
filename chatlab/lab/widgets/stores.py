"""One message in MongoDB, in its cache entry and in its conversation window, with differences.

MongoDB is the source of truth. A copy with a lower version is stale. The kernel reads all three
places while a view is visible, and updates the model when something has changed. The browser counts
down the time that is left.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from chatlab.client import Json
from chatlab.domain.ids import conversation_of
from chatlab.lab.trace import Trace, table
from chatlab.lab.widgets.live import OWN, Live

EVERY = 0.25  # seconds between two reads
# The difference in milliseconds from which a deadline counts as another one.
MOVED = 100
SHAPE = ("text", "version", "reactions", "editedAt", "deletedAt")
WHERE = {"store": "MongoDB", "message": "Redis, the message", "window": "Redis, the conversation"}


class Looking(Protocol):
    """What this widget needs of a session: reads of the stores.

    `counting` is the lock that is held while commands are counted.
    """

    counting: asyncio.Lock

    def redis_get(self, key: str) -> str | list[str] | None: ...
    def redis_pttl(self, key: str) -> int: ...
    def mongo_find(self, collection: str, **fields: Any) -> list[Json]: ...


class Stores(Live):
    """One message in three places.

    `model` is `{id, places: {store, message, window}}`. A place is `{where, key, found: {...} |
    None, deadlineMs, stale, trouble}`.
    """

    drawing = OWN / "stores.js"

    def __init__(self, lab: Looking, of: Trace | str, **traits: Any) -> None:
        self._lab = lab
        self._id = (of.id if isinstance(of, Trace) else of).removeprefix("message:")
        self._window = (
            f"messages:{conversation_of(of.message['senderId'], of.message['receiverId'])}"
            if isinstance(of, Trace)
            else ""
        )
        self._seen = asyncio.Event()
        self._views = 0
        super().__init__(model=self.look(), **traits)
        self.on_hand(lambda content: self._viewed(content["views"]))

    @property
    def kind(self) -> str:
        return f"Stores of {self._id}"

    def make_way(self) -> None:
        """Keep the last state visible, to compare a message before and after a change."""
        if self.work:
            self.work.cancel()
        self.resting = True

    # --- reading the stores -----------------------------------------------------------------------

    def look(self) -> Json:
        """Read all three places now, and return the model."""
        store = self._place("store", "messages", self._in_store)
        if not self._window and store["found"]:
            self._window = f"messages:{conversation_of(store['found']['senderId'], store['found']['receiverId'])}"
        places = {
            "store": store,
            "message": self._place("message", f"message:{self._id}", self._under_its_key),
            "window": self._place("window", self._window, self._in_window),
        }
        for place in places.values():
            place["differs"] = _differences(store["found"], place["found"])
        return {"id": self._id, "places": places, "sentMs": time.time() * 1000}

    def _place(self, name: str, key: str, found: Callable[[str], Json | None]) -> Json:
        place: Json = {
            "where": WHERE[name],
            "key": key,
            "found": None,
            "deadlineMs": None,
            "trouble": "",
        }
        try:
            place["found"] = found(key)
            if name != "store" and key:
                pttl = self._lab.redis_pttl(key)
                place["deadlineMs"] = time.time() * 1000 + pttl if pttl >= 0 else None
                place["kept"] = pttl == -1
        except Exception as wrong:  # noqa: BLE001 - an engine may be stopped on purpose
            # the error's message may contain an address
            place["trouble"] = f"no answer ({type(wrong).__name__})"
        return place

    def _in_store(self, collection: str) -> Json | None:
        return next(iter(self._lab.mongo_find(collection, _id=self._id)), None)

    def _under_its_key(self, key: str) -> Json | None:
        return _message(self._lab.redis_get(key))

    def _in_window(self, key: str) -> Json | None:
        value = self._lab.redis_get(key) if key else None
        entries = (
            [entry for entry in map(_message, value[1:]) if entry]
            if isinstance(value, list)
            else []
        )
        return next((entry for entry in entries if entry.get("_id") == self._id), None)

    # --- background task --------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._seen.wait()
            async with self._lab.counting:
                now = await asyncio.to_thread(self.look)
            if _differ(self.model, now):
                self.model = now
            await asyncio.sleep(EVERY)

    def _viewed(self, change: int) -> None:
        """Count a view that was opened (1) or closed (-1)."""
        self._views += change
        if self._views > 0:
            self._seen.set()
        else:
            self._seen.clear()

    def snapshot(self) -> str:
        self.model = self.look()
        rows = [
            (place["where"], place["key"], _in_words(place))
            for place in self.model["places"].values()
        ]
        return table(("where", "key", "what is there"), rows)

    def __repr__(self) -> str:
        return "\n".join(
            f"{place['where']:<25}{_in_words(place)}" for place in self.model["places"].values()
        )


def _message(value: Any) -> Json | None:
    try:
        message = json.loads(value)
    except (TypeError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _differences(truth: Json | None, copy: Json | None) -> list[str]:
    """Return the names of the fields in which the copy differs from MongoDB."""
    return [name for name in SHAPE if truth and copy and truth.get(name) != copy.get(name)]


def _differ(before: Json, now: Json) -> bool:
    """Return True if something has changed.

    A deadline that is computed again differs by the time that the read took. That is no change.
    """
    for name, place in now["places"].items():
        former = before["places"][name]
        if {**former, "deadlineMs": 0} != {**place, "deadlineMs": 0}:
            return True
        if abs((former["deadlineMs"] or 0) - (place["deadlineMs"] or 0)) > MOVED:
            return True
    return False


def _in_words(place: Json) -> str:
    if place["trouble"]:
        return str(place["trouble"])
    if place["found"] is None:
        # a window may exist without this message
        return "not in it" if place["deadlineMs"] else "not there"
    stale = f", stale: {', '.join(place['differs'])}" if place["differs"] else ""
    return f"version {place['found']['version']}: {place['found']['text']!r}{stale}"
