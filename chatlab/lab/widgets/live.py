"""A live drawing with a model.

The model is JSON and does not depend on its views. The browser draws it and animates it between two
updates. Each widget also has a fixed text and an HTML snapshot, which a saved notebook shows where
no front end is running. The browser downloads nothing: the kernel sends the JavaScript modules with
the widget, and `widget.js` imports them. The web page uses some of them too.
"""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

import chatlab
from chatlab.domain.trace import StageEvent
from chatlab.lab.key_lifetime import KeyLifetime

STATIC = Path(chatlab.__file__).parent / "web" / "static"  # the pages
SHARED = STATIC / "lab"  # drawings of both
OWN = Path(chatlab.__file__).parent / "lab" / "static"
STYLES = (SHARED / "lab.css", OWN / "widgets.css")
VIEW = "application/vnd.jupyter.widget-view+json"
IMPORT = re.compile(r' from "(\..*\.js)";$', re.MULTILINE)
# Between two model updates of a widget that may change often.
MIN_UPDATE_INTERVAL_S = 0.1


def read_all(paths: tuple[Path, ...]) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


class Live(anywidget.AnyWidget):
    """A widget of a session.

    `error` is shown below everything else. `resting`: it is no longer live and shows its last
    state.
    """

    _esm = OWN / "widget.js"
    _css = read_all(STYLES)
    drawing: ClassVar[Path]  # the module whose default export draws the model
    modules = traitlets.Dict().tag(sync=True)  # their sources
    about = traitlets.Dict().tag(sync=True)  # what the drawing needs once
    model = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    resting = traitlets.Bool().tag(sync=True)
    big = traitlets.Bool().tag(sync=True)  # for a projector
    task: "asyncio.Task[None] | None" = None

    @traitlets.default("modules")
    def _read_modules(self) -> dict[str, str]:
        """Return the drawing, and all modules that it imports, by the names of their files."""
        sources: dict[str, str] = {}
        _read_module(self.drawing, "drawing", sources)
        return sources

    @property
    def kind(self) -> str:
        """The kind of the widget. A session shows one widget of each kind."""
        return type(self).__name__

    def on_event(self, event: StageEvent) -> None:
        """Handle a flow event of the session's service."""

    def on_lifetime(self, lifetime: KeyLifetime) -> None:
        """Handle a key whose lifetime has begun or changed."""

    def on_drawing_message(self, handler: Callable[[Any], None]) -> None:
        """Call `handler` on the kernel's loop with each message of the drawing.

        The message may arrive on another thread.
        """
        loop = asyncio.get_running_loop()
        self.on_msg(lambda _, content, __: loop.call_soon_threadsafe(handler, content))

    async def run(self) -> None:
        """Run the widget's background task until it is closed or its session ends.

        Most widgets have none.
        """

    def snapshot(self) -> str:
        """Return the HTML that a saved notebook shows."""
        raise NotImplementedError

    def make_room(self) -> None:
        """Make room for a new widget of the same kind."""
        self.close()

    def close(self) -> None:
        if self.task:
            self.task.cancel()
        super().close()

    def __repr__(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        view = {"version_major": 2, "version_minor": 1, "model_id": self.model_id}
        return {"text/plain": repr(self), "text/html": self.snapshot(), VIEW: view}, {}


def _read_module(path: Path, name: str, sources: dict[str, str]) -> None:
    """Add the source of a module, and those of the modules that it imports."""
    sources[name] = path.read_text(encoding="utf-8")
    for imported in IMPORT.findall(sources[name]):
        target = path.parent / imported
        if target.name not in sources:
            _read_module(target, target.name, sources)


class Paced(Live):
    """A widget that may change thousands of times per second.

    The first change is sent at once, later ones at most ten times per second.
    """

    _sent_at = 0.0
    _later: asyncio.TimerHandle | None = None

    def __init__(self, **traits: Any) -> None:
        super().__init__(model=self.state(), **traits)

    def state(self) -> dict[str, Any]:
        """Return the current model."""
        raise NotImplementedError

    def changed(self) -> None:
        """Send the model now or soon.

        The last of many changes is always sent, as soon as the loop runs.
        """
        wait = self._sent_at + MIN_UPDATE_INTERVAL_S - time.monotonic()
        if wait <= 0:
            self.send_model()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(wait, self.send_model)

    def send_model(self) -> None:
        if self._later:
            self._later.cancel()
        self._later, self._sent_at = None, time.monotonic()
        self.model = self.state() | {"sentMs": time.time() * 1000}

    def close(self) -> None:
        if self._later:
            self._later.cancel()
        super().close()

    def _repr_mimebundle_(self, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._later:
            self.send_model()
        return super()._repr_mimebundle_(**more)
