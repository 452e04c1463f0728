"""The trace of one message: the stages it passed, with the time of each, from flow events."""

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
    """A box of a diagram, named after the stage in flow events.

    `aside` is the note that the document writes next to the box.
    """

    stage: str
    title: str
    note: str
    aside: str = ""


SEND = (
    Box("request", "Request", "who asks, and what"),
    Box("create", "Create message object", "_id and time of day"),
    Box(
        "save",
        "Save to MongoDB",
        "for good: a majority has it in its journal",
        "PERSISTENT STORAGE",
    ),
    Box("cache_message", "Cache in Redis", "message:{_id}", "FAST CACHE"),
    Box(
        "cache_conversation",
        "Update conversation cache",
        "messages:{id1}:{id2}",
        "CONVERSATION CACHE",
    ),
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
    """Return the boxes of a plan in the form that the flow map shows.

    `tookMs` is None for a stage that the request has not passed. `skipped` is True if it will not
    pass it any more.
    """
    took = {event["stage"]: event["tookMs"] for event in events}
    done = "respond" in took
    return [
        {**box._asdict(), "tookMs": took.get(box.stage), "skipped": done and box.stage not in took}
        for box in plan
    ]


def boxes_html(boxes: list[dict[str, Any]]) -> str:
    """Return the boxes as an HTML table, the snapshot for places without live widgets."""
    return table(
        ("box", "what it does", "took"),
        [(box["stage"], f"{box['title']}: {box['note']}", _took(box)) for box in boxes],
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table that is easy to read in JupyterLab and on pages that drop styles.

    JupyterLab would align the text to the right.
    """
    return claims_table(tuple(heads), [(False, tuple(row)) for row in rows])


class Rows(NamedTuple):
    """Rows that a cell shows as a small table.

    Values that depend on the speed of the machine come last and begin with the mark of `claims`.
    """

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __repr__(self) -> str:
        wide = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip()
            for row in (self.heads, *self.rows)
        )

    def _repr_html_(self) -> str:
        return table(self.heads, self.rows)


def _took(box: dict[str, Any]) -> str:
    if box["tookMs"] is None:
        return "not asked" if box["skipped"] else "not passed yet"
    return f"{box['tookMs']:.2f} ms"


class Trace:
    """One send and its flow events.

    `message` is the response, `took_ms` the time that the client waited for it, and `events` are
    the flow events of the request in order.
    """

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
        """The Redis key of the message's cache entry."""
        return next(
            (event["key"] for event in self.events if event["stage"] == "cache_message"),
            f"message:{self.id}",
        )

    def __repr__(self) -> str:
        rows = [
            f"{box['stage']:<20}{_took(box):>10}  {box['note']}" for box in boxes_of(self.events)
        ]
        return "\n".join([*rows, f"{'the client waited':<20}{self.took_ms:>7.2f} ms"])

    def _repr_html_(self) -> str:
        return (
            f"{boxes_html(boxes_of(self.events))}\n<p>The client waited {self.took_ms:.2f} ms.</p>"
        )


class Person(client.ChatClient):
    """A user of both transports. Sends return a trace."""

    lab: "Lab"

    async def send(self, other: "Person", text: str, *, door: str = "http") -> Trace:
        """Send over this transport (`http` or `socket`).

        Raises the error that the service returns, and EngineError after the session has ended.
        """
        self._must_be_there()
        if door == "socket" and not self.socket.connected:
            await self.connect()
        answer = await (self.send_by_socket if door == "socket" else self.send_by_http)(
            other.id, text
        )
        return Trace(answer.message, answer.took_ms, await self.lab.way_of(answer.message["_id"]))

    async def read(self, other: str, *, fresh: bool = False, **page: int) -> client.ReadResult:
        """Read as any client does. Raises EngineError after the session has ended."""
        self._must_be_there()
        return await super().read(other, fresh=fresh, **page)

    def _must_be_there(self) -> None:
        if self.http.is_closed:
            raise EngineError(
                "The session has ended.", "run the cell with `await start(...)` again"
            )

    def __repr__(self) -> str:
        return f"{self.id}, signed up and logged in"
