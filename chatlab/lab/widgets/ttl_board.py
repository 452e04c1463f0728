"""One bar for each cached message, with the time it has left."""

import time
from typing import Any

from chatlab.lab.key_lifetime import KeyLifetime, lifetime_svg
from chatlab.lab.widgets.diagram_svg import image_of
from chatlab.lab.widgets.live import SHARED, Live

MAX_KEYS = 8


class TtlBoard(Live):
    drawing = SHARED / "ttl_board.js"

    def __init__(self, **traits: Any) -> None:
        super().__init__(model={"items": []}, **traits)
        self._lifetimes: dict[str, KeyLifetime] = {}

    def on_lifetime(self, lifetime: KeyLifetime) -> None:
        """Put the newest key on top and remove the oldest."""
        self._lifetimes[lifetime.key] = lifetime
        for key in list(self._lifetimes)[:-MAX_KEYS]:
            del self._lifetimes[key]
        items = [shown.board_row() for shown in reversed(self._lifetimes.values())]
        self.model = {"items": items, "sentMs": time.time() * 1000}

    def snapshot(self) -> str:
        pictures = "\n".join(
            image_of(lifetime_svg(lifetime), repr(lifetime))
            for lifetime in reversed(self._lifetimes.values())
        )
        return f"<p>{self!r}</p>{pictures}"

    def __repr__(self) -> str:
        return "The TTL board: live in a running notebook."
