"""The stages that a message passes, lit by the latest request, and the source of each.

The stage after `request` identifies the kind of a trace: a send creates a message, a read asks the
cache or the store, and a change saves at once.
"""

from typing import Any

from chatlab.domain.trace import StageEvent
from chatlab.lab.diagram import PLANS, boxes_html, boxes_of
from chatlab.lab.widgets.diagram_svg import image_of
from chatlab.lab.widgets.flow_svg import flow_svg
from chatlab.lab.widgets.live import OWN, Paced
from chatlab.lab.widgets.sources import sources_of

KIND_OF_SECOND_STAGE = {
    "create": "send",
    "read_cache": "read",
    "read_store": "read",
    "save": "change",
}
MAX_PENDING = 50  # requests whose kind is not yet known; older ones are forgotten
TRANSPORT_LABELS = {
    "send": {
        "http": "HTTP POST Request\n/api/messages/send",
        "socket": "WebSocket Event\nsocket.sendMessage",
    },
    "read": {"http": "HTTP GET Request\n/api/messages/{id}"},
    "change": {
        "http": "HTTP Request\n/api/messages/{id}",
        "socket": "WebSocket Event\neditMessage …",
    },
}


class FlowMap(Paced):
    """A live diagram. `of` is send, read or change."""

    drawing = OWN / "flow_map_with_source.js"

    def __init__(self, of: str = "send", **traits: Any) -> None:
        if of not in PLANS:
            raise ValueError(f"of={of!r} is invalid: use one of {', '.join(PLANS)}")
        self.of = of
        self._requests: dict[str, StageEvent] = {}
        self._events: list[StageEvent] = []
        super().__init__(
            about={"of": of, "faces": TRANSPORT_LABELS[of], "sources": sources_of(of)}, **traits
        )

    @property
    def kind(self) -> str:
        return f"FlowMap of a {self.of}"

    def on_event(self, event: StageEvent) -> None:
        if event["door"] not in ("http", "socket"):
            return
        if event["stage"] == "request":
            self._requests = dict([*self._requests.items(), (event["trace"], event)][-MAX_PENDING:])
            return
        request = self._requests.pop(event["trace"], None)
        if request and KIND_OF_SECOND_STAGE.get(event["stage"]) == self.of:
            self._events = [request, event]
        elif self._events and event["trace"] == self._events[0]["trace"]:
            self._events.append(event)
        else:
            return
        self.changed()

    def state(self) -> dict[str, Any]:
        first = self._events[0] if self._events else {"door": None, "trace": None}
        return {
            "door": first["door"],
            "trace": first["trace"],
            "boxes": boxes_of(self._events, PLANS[self.of]),
        }

    def snapshot(self) -> str:
        state = self.state()
        picture = flow_svg(
            f"The boxes that a {self.of} passes",
            TRANSPORT_LABELS[self.of],
            state["door"],
            state["boxes"],
        )
        lit = boxes_html(state["boxes"]) if self._events else ""
        return f"{image_of(picture, ', '.join(box['title'] for box in state['boxes']))}\n<p>{self!r}</p>{lit}"

    def __repr__(self) -> str:
        return f"The flow map{'' if self.of == 'send' else f' of a {self.of}'}: live in a running notebook."
