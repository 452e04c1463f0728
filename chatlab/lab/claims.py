"""All measurable claims of the document, in its order, and the result of measuring each.

A notebook ends with the claims it has measured: a `ClaimResults` list made by `Lab.record_claims`.
The scorecard keeps the results for notebook 13.
"""

from typing import NamedTuple

from chatlab.lab.tables import TIMED, timed_table_html

HOLDS, DEPENDS, FAILS = "holds", "depends", "does not hold"


class Claim(NamedTuple):
    """A claim: its name in the code, the document's part, its text, and the notebook's number."""

    name: str
    part: str
    text: str
    notebook: str


DOCUMENT = (
    Claim("seven_boxes", "send", "a message passes seven boxes, in this order", "00"),
    Claim("one_answer", "send", "the answer is 200 OK and the message's data", "01"),
    Claim("two_doors", "send", "HTTP POST or WebSocket event: the same steps from there on", "02"),
    Claim("save_makes_id", "send", "saving to MongoDB creates the _id", "03"),
    Claim("message_key", "send", "a message is cached under message:{_id}, for 5 s", "04"),
    Claim(
        "conversation_key",
        "send",
        "its conversation is cached under messages:{id1}:{id2}, for 5 s",
        "05",
    ),
    Claim("emitted", "send", "newMessage is emitted", "02"),
    Claim("at_0_s", "lifecycle", "at 0 s the message is in Redis", "06"),
    Claim("at_2_s", "lifecycle", "at 2 s it is still cached, if accessed", "06"),
    Claim("at_5_s", "lifecycle", "at 5 s it has expired", "06"),
    Claim("ttl_0", "lifecycle", "when it has expired, its TTL is 0", "06"),
    Claim("at_6_s", "lifecycle", "at 6 s it is deleted, and that is logged", "06"),
    Claim("every_second", "worker", "the worker runs every second", "07"),
    Claim("gets_keys", "worker", "it gets the keys message:*", "07"),
    Claim("ttl_valid", "worker", "a TTL above 0 is logged as a cache hit", "07"),
    Claim(
        "deletes_at_0", "worker", "at TTL 0 it deletes the key and logs that it was cleaned", "07"
    ),
    Claim("asks_mongodb", "read", "a read asks MongoDB for the full history", "08"),
    Claim("latest_data", "read", "its reply includes the latest cached and saved messages", "08"),
    Claim("microseconds", "benefits", "Redis serves data in microseconds", "10"),
    Claim("less_load", "benefits", "the cache takes queries from MongoDB", "11"),
    Claim("never_lost", "benefits", "saved to MongoDB, a message is never lost", "12"),
    Claim("auto_cleanup", "benefits", "memory cleans itself up: 5 s TTL", "11"),
    Claim("real_time", "benefits", "WebSocket and REST are both cached", "02"),
    Claim("worker_consistency", "benefits", "the worker ensures consistency", "12"),
    Claim("order_of_ids", "keys", "the ids in messages:{id1}:{id2} have one order", "05"),
    Claim(
        "send_times", "performance", "a send takes 150 ms without the cache, 100 ms with it", "10"
    ),
    Claim("send_faster", "performance", "a send is 33 % faster with the cache", "10"),
    Claim(
        "read_times",
        "performance",
        "a conversation takes 200 to 500 ms without the cache, 50 to 100 ms with it",
        "10",
    ),
    Claim("read_faster", "performance", "a conversation is read 60 % faster from Redis", "10"),
    Claim(
        "update_times",
        "performance",
        "an update takes 100 ms without the cache, 50 ms with it",
        "10",
    ),
    Claim("update_faster", "performance", "an update is 50 % faster with the cache", "10"),
    Claim("message_bytes", "memory", "a message has about 500 bytes", "11"),
    Claim("overhead_bytes", "memory", "Redis adds about 200 bytes a key", "11"),
    Claim("total_bytes", "memory", "together about 700 bytes a message", "11"),
    Claim("thousand_bytes", "memory", "1000 cached messages take about 700 KB", "11"),
    Claim("freed", "memory", "the memory is freed automatically", "11"),
    Claim("no_leaks", "memory", "there is no bloating and no leak", "11"),
)
BY_NAME = {claim.name: claim for claim in DOCUMENT}


class ClaimResult(NamedTuple):
    """The result of measuring a claim. `timed`: it depends on the speed of the machine."""

    name: str
    measured: str
    verdict: str
    timed: bool = False

    @property
    def text(self) -> str:
        """The claim in the document."""
        return BY_NAME[self.name].text


class ClaimResults(list[ClaimResult]):
    """The results of one notebook. Lines with timed results begin with a mark."""

    def __repr__(self) -> str:
        return "\n".join(
            f"{TIMED + ' ' if result.timed else ''}{result.verdict:<15} {result.text}: {result.measured}"
            for result in self
        )

    def _repr_html_(self) -> str:
        return timed_table_html(
            ("the document says", "measured here", "verdict"),
            [(result.timed, _cells(result)) for result in self],
        )


def _cells(result: ClaimResult) -> tuple[str, ...]:
    verdict = f"{result.verdict} {TIMED}" if result.timed else result.verdict
    return result.text, result.measured, verdict


def holds_if(confirmed: bool) -> str:
    """Return the verdict for a claim that was confirmed, or was not."""
    return HOLDS if confirmed else FAILS
