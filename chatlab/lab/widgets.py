"""What moves in a notebook (anywidget) and what asks (ipywidgets). The drawing is done by the modules that the web page uses too.

A widget is told of changes; between two of them the browser animates by itself. Each has a fixed text and an HTML snapshot, which is what a
saved notebook shows where no front end is alive. Nothing is fetched: the modules are part of the widget.
"""

import html
import time
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

import chatlab
from chatlab.flow import Event
from chatlab.lab.life import Life
from chatlab.lab.said import Said
from chatlab.lab.trace import boxes_html, boxes_of

DRAWINGS = Path(chatlab.__file__).parent / "static" / "lab"
ADAPTER = Path(__file__).parent / "static" / "adapter.js"
VIEW = "application/vnd.jupyter.widget-view+json"
ROWS = 8  # keys on a board
AT_ONCE = 50  # requests of which one may become the send that is shown


def module_of(drawing: str, function: str) -> str:
    """An ES module for anywidget: the shared drawing, and the adapter behind it."""
    return "\n".join([(DRAWINGS / f"{drawing}.js").read_text(), ADAPTER.read_text(), f"export default widget({function});"])


class Live(anywidget.AnyWidget):
    """A drawing with a model. `error` is shown above everything else."""

    _css = (DRAWINGS / "lab.css").read_text()
    model = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    big = traitlets.Bool().tag(sync=True)  # for a projector

    def snapshot(self) -> str:
        """What stands in a saved notebook, as HTML."""
        raise NotImplementedError

    def __repr__(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        view = {"version_major": 2, "version_minor": 1, "model_id": self.model_id}
        return {"text/plain": repr(self), "text/html": self.snapshot(), VIEW: view}, {}


class TtlBoard(Live):
    """One bar for each cached message."""

    _esm = module_of("ttl_board", "ttlBoard")

    def __init__(self, **traits: Any) -> None:
        super().__init__(model={"items": []}, **traits)
        self._lives: dict[str, Life] = {}

    def show(self, life: Life) -> None:
        """A life that has begun, or in which something has happened. The newest is on top; the oldest leaves."""
        self._lives[life.key] = life
        for key in list(self._lives)[:-ROWS]:
            del self._lives[key]
        items = [shown.item() for shown in reversed(self._lives.values())]
        self.model = {"items": items, "sentMs": time.time() * 1000}

    def snapshot(self) -> str:
        lives = "".join(f"<pre>{html.escape(repr(life))}</pre>" for life in reversed(self._lives.values()))
        return f"<p>The TTL board: live in a running notebook.</p>{lives}"

    def __repr__(self) -> str:
        return "The TTL board: live in a running notebook."


class FlowMap(Live):
    """The send diagram, lit by the latest message."""

    _esm = module_of("flow_map", "flowMap")

    def __init__(self, **traits: Any) -> None:
        super().__init__(model={"door": None, "trace": None, "boxes": boxes_of([])}, **traits)
        self._requests: dict[str, Event] = {}  # of traces that may become a send
        self._events: list[Event] = []

    def hear(self, event: Event) -> None:
        """A trace is a send once it has created a message."""
        if event["door"] not in ("http", "socket"):
            return
        if event["stage"] == "request":
            self._requests = dict([*self._requests.items(), (event["trace"], event)][-AT_ONCE:])
        elif event["stage"] == "create":
            self._events = [*filter(None, [self._requests.get(event["trace"])]), event]
        elif self._events and event["trace"] == self._events[0]["trace"]:
            self._events.append(event)
        if self._events and event["trace"] == self._events[0]["trace"]:
            self.model = {"door": event["door"], "trace": event["trace"], "boxes": boxes_of(self._events)}

    def snapshot(self) -> str:
        lit = boxes_html(self.model["boxes"]) if self._events else ""
        return f"<p>The flow map: live in a running notebook.</p>{lit}"

    def __repr__(self) -> str:
        return "The flow map: live in a running notebook."


# --- asking ------------------------------------------------------------------------------------------------------------------


class Prediction(ipywidgets.VBox):  # type: ignore[misc]  # the library has no types
    """A question to answer before it is tried. `against` closes it."""

    def __init__(self, question: str, options: list[str], chosen: str) -> None:
        self.question, self.options = question, options
        self._choice = ipywidgets.RadioButtons(options=options, value=chosen, layout={"width": "max-content"})
        super().__init__([ipywidgets.HTML(f"<b>{html.escape(question)}</b>"), self._choice])

    @property
    def answer(self) -> str:
        return str(self._choice.value)

    def against(self, measured: str) -> Said:
        """What was said, what was measured. From now on the answer stands."""
        self._choice.disabled = True
        verdict = "So it is." if self.answer == measured else "Not so; read on for the reason."
        return Said(f"You said: {self.answer}. Measured: {measured}. {verdict}")

    def __repr__(self) -> str:
        return f"{self.question} ({' / '.join(self.options)})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        options = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"text/plain": repr(self), "text/html": f"<p><b>{html.escape(self.question)}</b></p><ul>{options}</ul>", VIEW: view}


def predict(question: str, *options: str, chosen: str | None = None) -> Prediction:
    """Ask before it is tried. `chosen` is what stands there first, so that a notebook runs through without anybody."""
    return Prediction(question, list(options), chosen or options[0])
