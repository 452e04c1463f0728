"""A drawing with a model. The model is JSON and knows nothing of its views; the browser draws it, and moves it between two changes.

Each has a fixed text and an HTML snapshot, which is what a saved notebook shows where no front end is alive. Nothing is fetched: the
modules are part of the widget, and some of them are the ones that the web page uses too.
"""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

import chatlab
from chatlab.domain.trace import StageEvent
from chatlab.lab.life import Life

SHARED = Path(chatlab.__file__).parent / "web" / "static" / "lab"  # with the web page
OWN = Path(chatlab.__file__).parent / "lab" / "static"
IMPORT = re.compile(r'^import .* from "(\..*)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=function|const)", re.MULTILINE)
VIEW = "application/vnd.jupyter.widget-view+json"
PACE = 0.1  # seconds between two changes that are told, where there may be many


def module_of(drawing: Path, function: str) -> str:
    """One ES module for anywidget: the drawing, all that it imports before it, and the adapter behind it."""
    parts = dict.fromkeys([*_imported(drawing), drawing, OWN / "adapter.js"])
    sources = [EXPORT.sub("", IMPORT.sub("", part.read_text(encoding="utf-8"))) for part in parts]
    return "\n".join([*sources, f"export default widget({function});"])


def _imported(drawing: Path) -> list[Path]:
    direct = [(drawing.parent / name).resolve() for name in IMPORT.findall(drawing.read_text(encoding="utf-8"))]
    return [part for path in direct for part in (*_imported(path), path)]


class Live(anywidget.AnyWidget):
    """`error` stands below everything else. `resting`: it is no longer live, and shows how it stood."""

    _css = "\n".join(path.read_text(encoding="utf-8") for path in (SHARED / "lab.css", OWN / "widgets.css"))
    about = traitlets.Dict().tag(sync=True)  # what the drawing needs once
    model = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    resting = traitlets.Bool().tag(sync=True)
    big = traitlets.Bool().tag(sync=True)  # for a projector
    work: "asyncio.Task[None] | None" = None

    @property
    def kind(self) -> str:
        """Of each kind a session shows one."""
        return type(self).__name__

    def hear(self, event: StageEvent) -> None:
        """A flow event of the session's service."""

    def follow(self, life: Life) -> None:
        """A life that has begun, or in which something has happened."""

    def on_hand(self, act: Callable[[Any], None]) -> None:
        """Let the kernel's own loop hear what a hand does at the drawing. The message may come on a foreign thread."""
        loop = asyncio.get_running_loop()
        self.on_msg(lambda _, content, __: loop.call_soon_threadsafe(act, content))

    async def run(self) -> None:
        """Its work in the background, until it is closed or its session ends; most have none."""

    def snapshot(self) -> str:
        """What stands in a saved notebook, as HTML."""
        raise NotImplementedError

    def make_way(self) -> None:
        """The next one of its kind is shown."""
        self.close()

    def close(self) -> None:
        if self.work:
            self.work.cancel()
        super().close()

    def __repr__(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        view = {"version_major": 2, "version_minor": 1, "model_id": self.model_id}
        return {"text/plain": repr(self), "text/html": self.snapshot(), VIEW: view}, {}


class Paced(Live):
    """One that may change thousands of times a second: the first change is told at once, the others ten times a second at most."""

    _told_at = 0.0
    _later: asyncio.TimerHandle | None = None

    def __init__(self, **traits: Any) -> None:
        super().__init__(model=self.state(), **traits)

    def state(self) -> dict[str, Any]:
        """The model as it is now."""
        raise NotImplementedError

    def changed(self) -> None:
        """Tell it, now or soon. The last one of many is always told, as soon as the loop runs."""
        wait = self._told_at + PACE - time.monotonic()
        if wait <= 0:
            self.tell()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(wait, self.tell)

    def tell(self) -> None:
        if self._later:
            self._later.cancel()
        self._later, self._told_at = None, time.monotonic()
        self.model = self.state() | {"sentMs": time.time() * 1000}

    def close(self) -> None:
        if self._later:
            self._later.cancel()
        super().close()

    def _repr_mimebundle_(self, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._later:
            self.tell()
        return super()._repr_mimebundle_(**more)
