"""The trace of one message: the stages it passed, with the time of each, from flow events."""

from chatlab.client import Json
from chatlab.domain.trace import StageEvent
from chatlab.lab.diagram import boxes_html, boxes_of, time_text
from chatlab.lab.sentences import PremiseGone


def stages_of(events: list[StageEvent]) -> tuple[str, ...]:
    """Return the stages of a request. Raises PremiseGone if there are none."""
    if not events:
        raise PremiseGone(
            "This notebook has received no stage of this message.",
            "run the cell that sends it again, and then this cell",
        )
    return tuple(event["stage"] for event in events)


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
        """The stages in order. Raises PremiseGone if this notebook has received none of them."""
        return stages_of(self.events)

    @property
    def key(self) -> str:
        """The Redis key of the message's cache entry."""
        return next(
            (event["key"] for event in self.events if event["stage"] == "cache_message"),
            f"message:{self.id}",
        )

    def __repr__(self) -> str:
        rows = [
            f"{box['stage']:<20}{time_text(box):>10}  {box['note']}"
            for box in boxes_of(self.events)
        ]
        return "\n".join([*rows, f"{'the client waited':<20}{self.took_ms:>7.2f} ms"])

    def _repr_html_(self) -> str:
        return (
            f"{boxes_html(boxes_of(self.events))}\n<p>The client waited {self.took_ms:.2f} ms.</p>"
        )
