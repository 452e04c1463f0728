"""One bar for each cached message, with the time it has left."""

import time
from typing import Any

from chatlab.lab.life import Life, life_svg
from chatlab.lab.widgets.chart_svg import image_of
from chatlab.lab.widgets.live import SHARED, Live

ROWS = 8  # keys on a board


class TtlBoard(Live):
    drawing = SHARED / "ttl_board.js"

    def __init__(self, **traits: Any) -> None:
        super().__init__(model={"items": []}, **traits)
        self._lives: dict[str, Life] = {}

    def follow(self, life: Life) -> None:
        """Put the newest key on top and remove the oldest."""
        self._lives[life.key] = life
        for key in list(self._lives)[:-ROWS]:
            del self._lives[key]
        items = [shown.item() for shown in reversed(self._lives.values())]
        self.model = {"items": items, "sentMs": time.time() * 1000}

    def snapshot(self) -> str:
        lives = "\n".join(
            image_of(life_svg(life), repr(life)) for life in reversed(self._lives.values())
        )
        return f"<p>The TTL board: live in a running notebook.</p>{lives}"

    def __repr__(self) -> str:
        return "The TTL board: live in a running notebook."
