"""All measurable claims of the document, in its order, and the result of measuring each.

A notebook ends with the claims it has measured: a `Claims` list made by `Lab.found`. The ledger
keeps the results for notebook 13.
"""

import html
from typing import NamedTuple

HOLDS, DEPENDS, FAILS = "holds", "depends", "does not hold"
# Marks a result that depends on the speed of the machine, so it may differ from run to run.
TIMED = "≈"


class Says(NamedTuple):
    """A claim: its name in the code, the document's part, its text, and the notebook's number."""

    name: str
    part: str
    text: str
    notebook: str


DOCUMENT = (
    Says("seven_boxes", "send", "a message passes seven boxes, in this order", "00"),
    Says("one_answer", "send", "the answer is 200 OK and the message's data", "01"),
    Says("two_doors", "send", "HTTP POST or WebSocket event: the same way from there on", "02"),
    Says("save_makes_id", "send", "saving to MongoDB creates the _id", "03"),
    Says("message_key", "send", "a message is cached under message:{_id}, for 5 s", "04"),
    Says(
        "conversation_key",
        "send",
        "its conversation is cached under messages:{id1}:{id2}, for 5 s",
        "05",
    ),
    Says("emitted", "send", "newMessage is emitted", "02"),
    Says("at_0_s", "lifecycle", "at 0 s the message is in Redis", "06"),
    Says("at_2_s", "lifecycle", "at 2 s it is still cached, if accessed", "06"),
    Says("at_5_s", "lifecycle", "at 5 s it has expired", "06"),
    Says("ttl_0", "lifecycle", "when it has expired, its TTL is 0", "06"),
    Says("at_6_s", "lifecycle", "at 6 s it is deleted, and that is logged", "06"),
    Says("every_second", "worker", "the worker runs every second", "07"),
    Says("gets_keys", "worker", "it gets the keys message:*", "07"),
    Says("ttl_valid", "worker", "a TTL above 0 is logged as a cache hit", "07"),
    Says(
        "deletes_at_0", "worker", "at TTL 0 it deletes the key and logs that it was cleaned", "07"
    ),
    Says("asks_mongodb", "read", "a read asks MongoDB for the full history", "08"),
    Says(
        "latest_data", "read", "what it returns includes the messages cached and saved last", "08"
    ),
    Says("microseconds", "benefits", "Redis serves data in microseconds", "10"),
    Says("less_load", "benefits", "the cache takes queries from MongoDB", "11"),
    Says("never_lost", "benefits", "saved to MongoDB, a message is never lost", "12"),
    Says("auto_cleanup", "benefits", "memory cleans itself up: 5 s TTL", "11"),
    Says("real_time", "benefits", "WebSocket and REST are both cached", "02"),
    Says("worker_consistency", "benefits", "the worker ensures consistency", "12"),
    Says("order_of_ids", "keys", "the ids in messages:{id1}:{id2} have one order", "05"),
    Says(
        "send_times", "performance", "a send takes 150 ms without the cache, 100 ms with it", "10"
    ),
    Says("send_faster", "performance", "a send is 33 % faster with the cache", "10"),
    Says(
        "read_times",
        "performance",
        "a conversation takes 200 to 500 ms without the cache, 50 to 100 ms with it",
        "10",
    ),
    Says("read_faster", "performance", "a conversation comes 60 % faster from Redis", "10"),
    Says(
        "update_times",
        "performance",
        "an update takes 100 ms without the cache, 50 ms with it",
        "10",
    ),
    Says("update_faster", "performance", "an update is 50 % faster with the cache", "10"),
    Says("message_bytes", "memory", "a message has about 500 bytes", "11"),
    Says("overhead_bytes", "memory", "Redis adds about 200 bytes a key", "11"),
    Says("total_bytes", "memory", "together about 700 bytes a message", "11"),
    Says("thousand_bytes", "memory", "1000 cached messages take about 700 KB", "11"),
    Says("freed", "memory", "the memory is freed automatically", "11"),
    Says("no_leaks", "memory", "there is no bloating and no leak", "11"),
)
BY_NAME = {says.name: says for says in DOCUMENT}


class Claim(NamedTuple):
    """The result of measuring a claim. `timed`: it depends on the speed of the machine."""

    name: str
    measured: str
    verdict: str
    timed: bool = False

    @property
    def says(self) -> str:
        return BY_NAME[self.name].text


class Claims(list[Claim]):
    """The claims of one notebook. Lines with timed results begin with a mark."""

    def __repr__(self) -> str:
        return "\n".join(
            f"{TIMED + ' ' if claim.timed else ''}{claim.verdict:<15} {claim.says}: {claim.measured}"
            for claim in self
        )

    def _repr_html_(self) -> str:
        return claims_table(
            ("the document says", "measured here", "verdict"),
            [(claim.timed, _cells(claim)) for claim in self],
        )


def _cells(claim: Claim) -> tuple[str, ...]:
    return claim.says, claim.measured, f"{claim.verdict} {TIMED}" if claim.timed else claim.verdict


def claims_table(heads: tuple[str, ...], rows: list[tuple[bool, tuple[str, ...]]]) -> str:
    """Return an HTML table with one line per row; a timed row has a class of its own."""
    head = "".join(f'<th style="text-align:left">{text}</th>' for text in heads)
    lines = [_row(timed, cells) for timed, cells in rows]
    return "\n".join(["<table>", f"<tr>{head}</tr>", *lines, "</table>"])


def _row(timed: bool, cells: tuple[str, ...]) -> str:
    drawn = "".join(f'<td style="text-align:left">{html.escape(text)}</td>' for text in cells)
    return f'<tr class="timed">{drawn}</tr>' if timed else f"<tr>{drawn}</tr>"


def holds(seen: bool) -> str:
    """Return the verdict for a claim that was confirmed, or was not."""
    return HOLDS if seen else FAILS
