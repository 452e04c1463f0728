"""Notebook 16: checks of the slot of a key, and of a client that survives a failover."""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

import httpx

from chatlab.lab.checks import (
    ANSWER_TIMEOUT_S,
    CheckResult,
    UnusableAnswer,
    call_answer,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import holds_if
from chatlab.lab.lessons.breaking import (
    BACK_S,
    BUSY,
    LOST,
    REFUSED,
    require_end,
    require_once,
    require_two,
    until_ok,
)
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.tables import Rows
from chatlab.lab.user import User

# --- exercise 1: the slot of a key ----------------------------------------------------------------

PLAIN_KEYS = ("message:6a0f3c2b9d1e4f5a6b7c8d9e", "messages:alice:bob", "messages:9:10", "café", "")
TAGGED_KEYS = (
    "{alice:bob}:window",
    "message:{alice:bob}:1",
    "fence{alice:bob}",
    "{a}{b}",
    "{a{b}c}",
)
UNTAGGED_KEYS = ("message:{}:1", "{alice:bob", "alice:bob}", "}alice{", "{}{a}")


@check
async def finds_slots(lab: Lab, answer: Any) -> CheckResult:
    """Compare a function with `CLUSTER KEYSLOT`, for keys with and without a hash tag."""
    for keys, hint in (
        (PLAIN_KEYS, "The slot is the CRC16 of the bytes of the key, modulo 16384."),
        (TAGGED_KEYS, "Only the text between the first { and the next } counts."),
        (UNTAGGED_KEYS, "This key has no hash tag, so the whole key counts."),
    ):
        for key in keys:
            slot = lab.redis.execute_command("CLUSTER KEYSLOT", key)
            found = call_answer(answer, key)
            if not is_number(found):
                return not_yet(f"For {key!r} your function returned {found!r}, which is no number.")
            if found != slot:
                return not_yet(
                    f"{key!r} has slot {slot}, and your function returned {found}. {hint}"
                )
    count = len(PLAIN_KEYS + TAGGED_KEYS + UNTAGGED_KEYS)
    return correct(f"For {count} keys, Redis returned the same slots as your function.")


# --- exercise 2: a client that survives a failover ------------------------------------------------

WRITERS, MESSAGES, DIES_AT = 5, 40, 10
LOST_HINT = "What does your function do while no machine can save a message?"
DOUBLED_HINT = (
    "One reply was lost after its message had been saved. How does the service know that the next"
    " try is the same message?"
)
Machines = list[httpx.AsyncClient]


class Death:
    """The death of a machine that has a process of the service, and the primary of MongoDB."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._address = lab, lab.mongo.client.primary
        if not self._address:
            raise PremiseGone("MongoDB has no primary at the moment.", "run the cell again")
        self._primary = lab.engines.name_of(self._address[0])
        self.has_happened = asyncio.Event()

    async def happen(self) -> None:
        await self._lab.kill_service()
        await self._lab.engines.kill(self._primary)
        self.has_happened.set()

    async def recovery(self, second: httpx.AsyncClient) -> None:
        """Wait until MongoDB has another primary, and the second machine has found it."""
        await self.has_happened.wait()
        client = self._lab.mongo.client
        await poll_until(lambda: client.primary not in (None, self._address), BACK_S)
        await poll_until(lambda: _is_ready(second), BACK_S)

    async def undo(self) -> None:
        await self._lab.engines.start(self._primary)
        await self._lab.restart()


async def _is_ready(machine: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await machine.get("/readyz")).is_success
    return False


class DyingMachine(httpx.AsyncHTTPTransport):
    """The way to a process. One reply is lost, because the machine dies before it arrives."""

    def __init__(self, death: Death) -> None:
        super().__init__()
        self._death, self.requests = death, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        is_last = self.requests == DIES_AT
        reply = await super().handle_async_request(request)
        if is_last:
            await reply.aread()
            await self._death.happen()
            raise httpx.ReadError("The server closed the connection.", request=request)
        return reply


@check
async def survives(lab: Lab, alice: User, answer: Any) -> CheckResult:
    """Check a send to several machines, of which one dies with the primary of MongoDB."""
    await until_ok(alice)
    receiver = await lab.new_user("erin")

    def send(http: httpx.AsyncClient, receiver_id: str, text: str) -> Any:
        return answer([http, http], receiver_id, text)

    await require_once(lab, alice, receiver, send, "Nothing fails", ())
    await _require_survival(lab, alice, receiver, answer)
    for story, faults in (
        ("The first reply is a 503", (BUSY,)),
        ("The first reply is lost", (LOST,)),
        ("The connection is refused twice", (REFUSED, REFUSED)),
    ):
        await require_once(lab, alice, receiver, send, story, faults)
    await require_two(lab, alice, receiver, send)
    await require_end(alice, send)
    return correct(
        f"The first machine died among {MESSAGES} sends, and the primary of MongoDB with it. Each"
        " message is saved exactly once."
    )


async def _require_survival(lab: Lab, alice: User, receiver: User, answer: Any) -> None:
    saved = await _send_among_deaths(lab, alice, receiver, answer)
    lost = sum(count == 0 for count in saved.values())
    doubled = sum(count > 1 for count in saved.values())
    if lost or doubled:
        raise UnusableAnswer(
            f"The first machine died among {MESSAGES} sends. Of these messages, {lost} are lost and"
            f" {doubled} are saved twice. {LOST_HINT if lost else DOUBLED_HINT}"
        )


async def _send_among_deaths(lab: Lab, alice: User, receiver: User, answer: Any) -> dict[str, int]:
    """Send from several tasks while a machine dies. Return how often each text is saved."""
    second_url = await lab.service.start_extra("two")
    death = Death(lab)
    mark = secrets.token_hex(4)
    texts = [f"{mark} {number}" for number in range(MESSAGES)]
    way = DyingMachine(death)
    headers = {"authorization": f"Bearer {alice.token}"}
    async with (
        httpx.AsyncClient(transport=way, base_url=alice.url, headers=headers) as first,
        httpx.AsyncClient(base_url=second_url, headers=headers, trust_env=False) as second,
    ):
        try:
            machines = [first, second]
            await _write_all(answer, machines, receiver.id, texts, death.recovery(second))
        finally:
            await death.undo()
            await until_ok(alice)
    if not death.has_happened.is_set():
        raise UnusableAnswer(
            f"The first machine dies at its request number {DIES_AT}, and your function sent it"
            f" {way.requests} requests. Begin with `machines[0]`."
        )
    found = lab.mongo.messages.find({"text": {"$in": texts}}, {"text": 1})
    saved = Counter(message["text"] for message in found)
    return {text: saved[text] for text in texts}


async def _write_all(
    answer: Any,
    machines: Machines,
    receiver_id: str,
    texts: Sequence[str],
    recovery: Coroutine[Any, Any, None],
) -> None:
    """Call the learner's function for each text, at most until some seconds after the recovery."""
    waiting = iter(texts)

    async def write() -> None:
        for text in waiting:
            with contextlib.suppress(Exception):  # a learner's function may raise anything
                await answer(machines, receiver_id, text)

    async def limit() -> None:
        await recovery
        await asyncio.sleep(ANSWER_TIMEOUT_S)

    writing = asyncio.gather(*(write() for _ in range(WRITERS)))
    limiting = asyncio.create_task(limit())
    await asyncio.wait((writing, limiting), return_when=asyncio.FIRST_COMPLETED)
    is_late = not writing.done()
    for task in (writing, limiting):
        task.cancel()
    await asyncio.gather(writing, limiting, return_exceptions=True)
    if is_late:
        raise UnusableAnswer(
            f"The first machine is dead, and the second one has been ready for {ANSWER_TIMEOUT_S:g} s."
            " Your function is still trying. Does it ever ask `machines[1]`?"
        )


# --- what holds -----------------------------------------------------------------------------------


def promises(
    results: Mapping[str, Mapping[str, int]],
    statuses: Collection[int],
    seqs: Sequence[int],
    untargeted: Collection[str],
) -> Rows:
    """Compare promises of docs/scaling.md with what this notebook has seen.

    `results` has the lost and the doubled messages of each kill, `statuses` those of the sends while
    MongoDB's primary was killed, and `untargeted` the commands that do not name the shard key.
    """
    expected = {200, 503}
    return Rows(
        ("what the documentation promises", "measured here", "verdict"),
        [
            *(
                (
                    f"no acknowledged message is lost or doubled when {name} is killed",
                    f"{result['lost']} lost, {result['doubled']} doubled",
                    holds_if(not any(result.values())),
                )
                for name, result in results.items()
            ),
            (
                "without a primary of MongoDB, a send is answered with 503",
                f"no status other than 200 and 503: {expected >= set(statuses)}",
                holds_if(expected >= set(statuses)),
            ),
            (
                "seq has no gaps, also with two processes",
                f"{len(seqs)} messages of two processes",
                holds_if(list(seqs) == list(range(1, len(seqs) + 1))),
            ),
            (
                "only a change of a message that is not cached asks all shards",
                f"asks all shards: {', '.join(sorted(untargeted)) or 'nothing'}",
                holds_if(set(untargeted) == {"find"}),
            ),
        ],
    )
