"""The boxes of the document's diagrams, and the time that a request spent in each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from chatlab.domain.trace import StageEvent
from chatlab.lab.tables import table_html


class Box(NamedTuple):
    """A box of a diagram, named after the stage in flow events.

    `aside` is the note that the document writes next to the box.
    """

    stage: str
    title: str
    note: str
    aside: str = ""


SEND = (
    Box("request", "Request", "the user and the input"),
    Box("create", "Create message object", "_id and creation time"),
    Box(
        "save",
        "Save to MongoDB",
        "durable: in the journal of a majority",
        "PERSISTENT STORAGE",
    ),
    Box("cache_message", "Cache in Redis", "message:{_id}", "FAST CACHE"),
    Box(
        "cache_conversation",
        "Update conversation cache",
        "messages:{id1}:{id2}",
        "CONVERSATION CACHE",
    ),
    Box("emit", "Emit via Socket.IO", "newMessage to both users"),
    Box("respond", "Response to client", "200 OK or ack, with the message"),
)
READ = (
    Box("request", "Request", "the user and the page"),
    Box("read_cache", "Read the cache", "messages:{id1}:{id2}"),
    Box("read_store", "Query MongoDB", "messages that the cache lacks"),
    Box("respond", "Return messages", "with X-Cache: hit, partial, miss or bypass"),
)
CHANGE = (
    Box("request", "Request", "the user and the input"),
    Box("save", "Save to MongoDB", "the next version, durable", "PERSISTENT STORAGE"),
    *(box for box in SEND if box.stage.startswith("cache")),
    Box("emit", "Emit via Socket.IO", "messageUpdated to both users"),
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


def boxes_html(boxes: Sequence[dict[str, Any]]) -> str:
    """Return the boxes as an HTML table, the snapshot for places without live widgets."""
    return table_html(
        ("box", "what it does", "took"),
        [(box["stage"], f"{box['title']}: {box['note']}", time_text(box)) for box in boxes],
    )


def time_text(box: dict[str, Any]) -> str:
    if box["tookMs"] is None:
        return "not asked" if box["skipped"] else "not passed yet"
    return f"{box['tookMs']:.2f} ms"
