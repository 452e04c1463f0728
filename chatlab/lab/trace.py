"""The way of one message: the boxes of the send diagram it really passed, with the time each took, from the service's flow events."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from chatlab import client
from chatlab.client import Json
from chatlab.domain.trace import StageEvent
from chatlab.errors import EngineError
from chatlab.lab.claims import claims_table

if TYPE_CHECKING:
    from chatlab.lab.session import Lab


class Box(NamedTuple):
    """A box of a diagram, under the name that flow events give it. `aside` is what the document writes beside it."""

    stage: str
    title: str
    note: str
    aside: str = ""


SEND = (
    Box("request", "Request", "who asks, and what"),
    Box("create", "Create message object", "_id and time of day"),
    Box("save", "Save to MongoDB", "for good: a majority has it in its journal", "PERSISTENT STORAGE"),
    Box("cache_message", "Cache in Redis", "message:{_id}", "FAST CACHE"),
    Box("cache_conversation", "Update conversation cache", "messages:{id1}:{id2}", "CONVERSATION CACHE"),
    Box("emit", "Emit via Socket.IO", "newMessage to both people"),
    Box("respond", "Response to client", "200 OK, or the ack, with the message"),
)
READ = (
    Box("request", "Request", "who asks, and for what"),
    Box("read_cache", "Ask the cache", "messages:{id1}:{id2}"),
    Box("read_store", "Query MongoDB", "what the cache does not have"),
    Box("respond", "Return messages", "with X-Cache: hit, partial, miss or bypass"),
)
CHANGE = (
    Box("request", "Request", "who asks, and what"),
    Box("save", "Save to MongoDB", "the next version, for good", "PERSISTENT STORAGE"),
    *(box for box in SEND if box.stage.startswith("cache")),
    Box("emit", "Emit via Socket.IO", "messageUpdated to both people"),
    SEND[-1],
)
PLANS = {"send": SEND, "read": READ, "change": CHANGE}
STAGES = tuple(box.stage for box in SEND)


def boxes_of(events: list[StageEvent], plan: Sequence[Box] = SEND) -> list[dict[str, Any]]:
    """The boxes of a plan as the flow map wants them. `tookMs` is None for a box that has not been passed; `skipped`: and will not be."""
    took = {event["stage"]: event["tookMs"] for event in events}
    done = "respond" in took
    return [{**box._asdict(), "tookMs": took.get(box.stage), "skipped": done and box.stage not in took} for box in plan]


def boxes_html(boxes: list[dict[str, Any]]) -> str:
    """The boxes as a table: the snapshot where nothing is live."""
    return table(("box", "what it does", "took"), [(box["stage"], f"{box['title']}: {box['note']}", _took(box)) for box in boxes])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML that reads well in JupyterLab, which would align to the right, and on plainer pages, which drop the styles."""
    return claims_table(tuple(heads), [(False, tuple(row)) for row in rows])


class Rows(NamedTuple):
    """What a cell shows as a small table. What hangs on the machine's speed stands last, and begins with the mark of `claims`."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __repr__(self) -> str:
        wide = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip() for row in (self.heads, *self.rows)
        )

    def _repr_html_(self) -> str:
        return table(self.heads, self.rows)


def _took(box: dict[str, Any]) -> str:
    if box["tookMs"] is None:
        return "not asked" if box["skipped"] else "not passed yet"
    return f"{box['tookMs']:.2f} ms"


class Trace:
    """One send. `message` is the answer, `took_ms` how long the client waited for it, `events` are the flow events of its way, in order."""

    def __init__(self, message: Json, took_ms: float, events: list[StageEvent]) -> None:
        self.message, self.took_ms, self.events = message, took_ms, events

    @property
    def id(self) -> str:
        return str(self.message["_id"])

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(event["stage"] for event in self.events)

    @property
    def key(self) -> str:
        """The message's own key in Redis."""
        return next((event["key"] for event in self.events if event["stage"] == "cache_message"), f"message:{self.id}")

    def __repr__(self) -> str:
        rows = [f"{box['stage']:<20}{_took(box):>10}  {box['note']}" for box in boxes_of(self.events)]
        return "\n".join([*rows, f"{'the client waited':<20}{self.took_ms:>7.2f} ms"])

    def _repr_html_(self) -> str:
        return f"{boxes_html(boxes_of(self.events))}\n<p>The client waited {self.took_ms:.2f} ms.</p>"


class Person(client.ChatClient):
    """Somebody at both doors, whose sends come back with their way."""

    lab: "Lab"

    async def send(self, other: "Person", text: str, *, door: str = "http") -> Trace:
        """Send by this door (`http` or `socket`). Raises what the service refuses; EngineError once the session has ended."""
        self._must_be_there()
        if door == "socket" and not self.socket.connected:
            await self.connect()
        answer = await (self.send_by_socket if door == "socket" else self.send_by_http)(other.id, text)
        return Trace(answer.message, answer.took_ms, await self.lab.way_of(answer.message["_id"]))

    async def read(self, other: str, *, fresh: bool = False, **page: int) -> client.ReadResult:
        """As a client reads; EngineError once the session has ended."""
        self._must_be_there()
        return await super().read(other, fresh=fresh, **page)

    def _must_be_there(self) -> None:
        if self.http.is_closed:
            raise EngineError("The session has ended.", "run the cell with `await start(...)` again")

    def __repr__(self) -> str:
        return f"{self.id}, signed up and logged in"
