"""One message in MongoDB, under its own key in Redis, and in its conversation's window in Redis: side by side, and what differs.

MongoDB is the truth. A copy whose version is lower is stale. Looked at in Python while somebody sees it; told when something has changed.
The time left is counted down by the browser.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from chatlab.client import Json
from chatlab.domain.ids import conversation_of
from chatlab.lab.trace import Trace, table
from chatlab.lab.widgets.live import OWN, Live, module_of

EVERY = 0.25  # seconds between two looks
MOVED = 100  # milliseconds by which a deadline must differ to be another one
SHAPE = ("text", "version", "reactions", "editedAt", "deletedAt")
WHERE = {"store": "MongoDB", "message": "Redis, the message", "window": "Redis, the conversation"}


class Looking(Protocol):
    """The looks of a session that this needs; and the lock of who counts them."""

    counting: asyncio.Lock

    def redis_get(self, key: str) -> str | list[str] | None: ...
    def redis_pttl(self, key: str) -> int: ...
    def mongo_find(self, collection: str, **fields: Any) -> list[Json]: ...


class Stores(Live):
    """`model`: `{id, places: {store, message, window}}`; a place is `{where, key, found: {...} | None, deadlineMs, stale, trouble}`."""

    _esm = module_of(OWN / "stores.js", "stores")

    def __init__(self, lab: Looking, of: Trace | str, **traits: Any) -> None:
        self._lab = lab
        self._id = (of.id if isinstance(of, Trace) else of).removeprefix("message:")
        self._window = f"messages:{conversation_of(of.message['senderId'], of.message['receiverId'])}" if isinstance(of, Trace) else ""
        self._seen = asyncio.Event()
        self._views = 0
        super().__init__(model=self.look(), **traits)
        self.on_hand(lambda content: self._viewed(content["views"]))

    @property
    def kind(self) -> str:
        return f"Stores of {self._id}"

    def make_way(self) -> None:
        """It stays as it stood: a message before a change, and after it, are to be seen one below the other."""
        if self.work:
            self.work.cancel()
        self.resting = True

    # --- looking -------------------------------------------------------------------------------------------------------------

    def look(self) -> Json:
        """The model, from a look at all three places now."""
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
        place: Json = {"where": WHERE[name], "key": key, "found": None, "deadlineMs": None, "trouble": ""}
        try:
            place["found"] = found(key)
            if name != "store" and key:
                pttl = self._lab.redis_pttl(key)
                place["deadlineMs"] = time.time() * 1000 + pttl if pttl >= 0 else None
                place["kept"] = pttl == -1
        except Exception as wrong:  # noqa: BLE001 - an engine may be stopped on purpose
            place["trouble"] = f"no answer ({type(wrong).__name__})"  # its words may hold an address
        return place

    def _in_store(self, collection: str) -> Json | None:
        return next(iter(self._lab.mongo_find(collection, _id=self._id)), None)

    def _under_its_key(self, key: str) -> Json | None:
        return _message(self._lab.redis_get(key))

    def _in_window(self, key: str) -> Json | None:
        value = self._lab.redis_get(key) if key else None
        entries = [entry for entry in map(_message, value[1:]) if entry] if isinstance(value, list) else []
        return next((entry for entry in entries if entry.get("_id") == self._id), None)

    # --- living --------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._seen.wait()
            async with self._lab.counting:
                now = await asyncio.to_thread(self.look)
            if _differ(self.model, now):
                self.model = now
            await asyncio.sleep(EVERY)

    def _viewed(self, change: int) -> None:
        """One view more (1) or less (-1)."""
        self._views += change
        if self._views > 0:
            self._seen.set()
        else:
            self._seen.clear()

    def snapshot(self) -> str:
        self.model = self.look()
        rows = [(place["where"], place["key"], _in_words(place)) for place in self.model["places"].values()]
        return table(("where", "key", "what is there"), rows)

    def __repr__(self) -> str:
        return "\n".join(f"{place['where']:<25}{_in_words(place)}" for place in self.model["places"].values())


def _message(value: Any) -> Json | None:
    try:
        message = json.loads(value)
    except (TypeError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _differences(truth: Json | None, copy: Json | None) -> list[str]:
    """The names of what the copy has otherwise than the truth."""
    return [name for name in SHAPE if truth and copy and truth.get(name) != copy.get(name)]


def _differ(before: Json, now: Json) -> bool:
    """Is there news? A deadline that is read again is off by the time the reading took: that is none."""
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
        return "not in it" if place["deadlineMs"] else "not there"  # a window may be there without this message
    stale = f", stale: {', '.join(place['differs'])}" if place["differs"] else ""
    return f"version {place['found']['version']}: {place['found']['text']!r}{stale}"
