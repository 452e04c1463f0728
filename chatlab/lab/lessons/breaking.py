"""Notebook 12: outages, and checks of code that finds lost messages and repeats a send."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
from bson import ObjectId

from chatlab.client import Json
from chatlab.errors import EngineError
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    await_answer,
    call_answer,
    check,
    correct,
    not_yet,
)
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.lessons.saving import Kept
from chatlab.lab.plain_text import PlainText
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.tables import TIMED
from chatlab.lab.user import User
from chatlab.local.binaries import Name
from chatlab.local.data_folder import DataFolder

SEND = "/api/messages/send"
BACK_S = 60.0  # for the service to find a server that is back
TRIES = 5
KNOWN_S = 4.0  # a token that was checked and a window that was filled in this time are still cached
FEW = 20  # messages before the disk is lost
ROUNDS = 3  # of a message that is sent, edited, reacted to and deleted
NEWEST = 20  # messages in a read

Send = Json  # {"number", "text", "began", "ended", "status", "id"}; without a reply `id` is None


async def until_ok(user: User) -> None:
    """Wait until the service has found both servers again."""
    async with asyncio.timeout(BACK_S):
        while (await user.http.get("/readyz")).json()["status"] != "ok":  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)


async def stop_after_a_read(lab: Lab, reader: User, other: User, name: Name) -> PlainText:
    """Send and read, and stop a server while the window and both tokens are still cached."""
    for _ in range(TRIES):
        await until_ok(reader)
        began = time.monotonic()
        await other.send_by_http(reader.id, "Everything is running")
        await reader.read(other.id, limit=NEWEST)
        report = await lab.engines.stop(name)
        # A token may have been checked some seconds before the send, so a read shows if it is known.
        known = await reader.http.get(f"/api/messages/{other.id}", params={"limit": NEWEST})
        if time.monotonic() - began < KNOWN_S and known.is_success:
            return report
        await lab.engines.start(name)
    raise EngineError("The machine is too busy for this experiment.", "run the cell again")


# --- killed among many sends ----------------------------------------------------------------------


class Outcome(NamedTuple):
    """The results of some sends, compared with MongoDB."""

    acknowledged: int
    unanswered: int
    saved_unanswered: int
    lost: int

    def __repr__(self) -> str:
        return (
            f"acknowledged             {TIMED} {self.acknowledged}\n"
            f"not acknowledged         {TIMED} {self.unanswered}, of which {self.saved_unanswered} are saved\n"
            f"acknowledged, then lost  {self.lost}"
        )


def outcome(lab: Lab, sends: Sequence[Send]) -> Outcome:
    """Look for the messages of these sends in MongoDB."""
    texts = [send["text"] for send in sends]
    saved = {
        message["text"]
        for message in lab.mongo.messages.find({"text": {"$in": texts}}, {"text": 1})
    }
    kept = [send["text"] in saved for send in sends if send["id"]]
    others = [send["text"] in saved for send in sends if not send["id"]]
    return Outcome(len(kept), len(others), sum(others), kept.count(False))


class Disk(NamedTuple):
    """Messages that were acknowledged before MongoDB's folder was lost, and how many were left."""

    acknowledged: int
    left: int
    restored: int

    def __repr__(self) -> str:
        return (
            f"acknowledged            {self.acknowledged}\n"
            f"without the folder      {self.left} in MongoDB\n"
            f"with the folder again   {self.restored} in MongoDB"
        )


async def lose_the_disk(lab: Lab, sender: User, receiver: User) -> Disk:
    """Send, start MongoDB on an empty folder as after a broken disk, then on its own folder."""
    await until_ok(sender)
    sent = [await sender.send_by_http(receiver.id, f"Number {number}") for number in range(FEW)]
    ids = [ObjectId(one.message["_id"]) for one in sent]

    def count() -> int:
        return lab.mongo.messages.count_documents({"_id": {"$in": ids}})

    await lab.engines.stop("mongo")
    folder = DataFolder(lab.settings).db
    aside = folder.with_name("db-aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    try:
        await lab.engines.start("mongo")
        left = count()
    finally:
        await lab.engines.stop("mongo")
        shutil.rmtree(folder)
        aside.rename(folder)
        await lab.engines.start("mongo")
    await until_ok(sender)
    return Disk(len(ids), left, count())


# --- without the sweeper --------------------------------------------------------------------------


class Reads(NamedTuple):
    """How many reads after a change were equal to what MongoDB had, and how many were hits."""

    right: int
    of: int
    hits: int

    def __repr__(self) -> str:
        return f"{self.right} of {self.of} reads are equal to MongoDB, {TIMED} {self.hits} of them hits"


async def compare_reads(alice: User, bob: User) -> Reads:
    """Send, edit, react and delete. Both users read after each step; compare with MongoDB."""
    seen = []
    for _ in range(ROUNDS):
        message = (await alice.send_by_http(bob.id, "Meet at six")).message
        seen += await _read_both(alice, bob)
        path = f"/api/messages/{message['_id']}"
        await alice.http.patch(path, json={"text": "Meet at seven"})
        seen += await _read_both(alice, bob)
        await bob.http.put(f"{path}/reactions/👍")
        seen += await _read_both(alice, bob)
        await alice.http.delete(path)
        seen += await _read_both(alice, bob)
    return Reads(sum(right for right, _ in seen), len(seen), sum(hit for _, hit in seen))


async def _read_both(alice: User, bob: User) -> list[tuple[bool, bool]]:
    reads = [await alice.read(bob.id, limit=NEWEST), await bob.read(alice.id, limit=NEWEST)]
    truth = await bob.read(alice.id, fresh=True, limit=NEWEST)
    return [(read.messages == truth.messages, read.cache == "hit") for read in reads]


# --- exercise 1: lost messages --------------------------------------------------------------------


@check
async def finds_lost(lab: Lab, acknowledged: Sequence[str], lost: Any) -> CheckResult:
    """Check a function that finds lost messages, with and without a message that is missing."""
    ids = list(acknowledged)
    missing = _missing(lab, ids)
    if not ids or missing:
        raise PremiseGone(
            f"{len(missing)} of your {len(ids)} acknowledged messages are missing already.",
            "run the cells with the three kills again",
        )
    named = _named(lab, lost, ids)
    if named:
        return not_yet(
            f"All {len(ids)} messages are in MongoDB, and your function returned {len(named)} ids."
            " Does your query compare an ObjectId with an ObjectId?"
        )
    for victims in ([ids[0]], [ids[-1]], [ids[0], ids[-1]]):
        named = _named_without(lab, lost, ids, victims)
        if sorted(named) != sorted(victims):
            return not_yet(
                f"The check removed {len(victims)} of {len(ids)} messages from MongoDB for a moment, and"
                f" your function returned {len(named)} ids. Which of `acknowledged` are not in MongoDB?"
            )
    if named := _named(lab, lost, []):
        return not_yet(f"For an empty list it returned {len(named)} ids.")
    return correct(
        f"None of your {len(ids)} acknowledged messages is lost. The check also removed some for a"
        " moment, and your function found exactly these."
    )


def _missing(lab: Lab, ids: Iterable[str]) -> set[str]:
    wanted = {ObjectId(one) for one in ids}
    found = lab.mongo.messages.find({"_id": {"$in": list(wanted)}}, {"_id": 1})
    return {str(one) for one in wanted - {message["_id"] for message in found}}


def _named(lab: Lab, lost: Any, ids: list[str]) -> list[str]:
    returned = call_answer(lost, lab.mongo, list(ids))
    if not isinstance(returned, list | set | tuple):
        raise UnusableAnswer(
            f"Your function returned {returned!r}. It must return a list or a set."
        )
    return [str(one) for one in returned]


def _named_without(lab: Lab, lost: Any, ids: list[str], victims: list[str]) -> list[str]:
    """Call the learner's function while these messages are missing."""
    messages = lab.mongo.messages
    documents = list(messages.find({"_id": {"$in": [ObjectId(one) for one in victims]}}))
    messages.delete_many({"_id": {"$in": [document["_id"] for document in documents]}})
    try:
        return _named(lab, lost, ids)
    finally:
        messages.insert_many(documents)


# --- exercise 2: a send that is repeated ----------------------------------------------------------

REFUSED, BUSY, LOST, SILENT = "refused", "503", "lost reply", "no reply in time"
WRITERS, MESSAGES, KILL_AT = 5, 40, 10
BURST_S = 60.0


class Network(httpx.AsyncHTTPTransport):
    """A transport of httpx that has planned faults for the first attempts, in this order."""

    def __init__(self, *faults: str) -> None:
        super().__init__()
        self._faults, self.attempts = list(faults), 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.attempts += 1
        fault = self._faults.pop(0) if self._faults else ""
        if fault == REFUSED:
            raise httpx.ConnectError("All connection attempts failed", request=request)
        if fault == BUSY:  # from a load balancer
            headers = {"retry-after": "1"}
            return httpx.Response(503, headers=headers, json={"code": "store_unavailable"})
        reply = await super().handle_async_request(request)
        if fault in (LOST, SILENT):
            await reply.aread()
            kind = httpx.ReadError if fault == LOST else httpx.ReadTimeout
            raise kind("No reply", request=request)
        return reply


@check
async def sends_once(lab: Lab, alice: User, send: Any) -> CheckResult:
    """Check a repeated send: with a network that loses replies, and while the service is killed."""
    await until_ok(alice)
    receiver = await lab.new_user("dora")
    for story, faults in (
        ("The network has no fault", ()),
        ("The first reply is lost", (LOST,)),
        ("The first reply does not come in time", (SILENT,)),
        ("The connection is refused twice", (REFUSED, REFUSED)),
        ("A load balancer replies 503, and then a reply is lost", (BUSY, LOST)),
    ):
        await require_once(lab, alice, receiver, send, story, faults)
    await require_two(lab, alice, receiver, send)
    await require_end(alice, send)
    await _require_all_once(lab, alice, receiver, send)
    return correct(
        f"Lost replies, refused connections and a 503: one message each time. Then the service was"
        f" killed among {MESSAGES} sends, and each message is saved exactly once."
    )


def _client(alice: User, network: Network) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {alice.token}"}
    return httpx.AsyncClient(transport=network, base_url=alice.url, headers=headers)


async def require_once(
    lab: Lab, alice: User, receiver: User, send: Any, story: str, faults: Sequence[str]
) -> None:
    text = f"{story} {secrets.token_hex(4)}"
    async with _client(alice, Network(*faults)) as http:
        try:
            reply = await await_answer(send, http, receiver.id, text)
        except UnusableAnswer as error:
            raise UnusableAnswer(f"{story}: {error}") from None
    saved = lab.mongo.messages.count_documents({"text": text})
    if saved != 1:
        raise UnusableAnswer(f"{story}: {saved} messages are in MongoDB, and not 1.")
    if not isinstance(reply, httpx.Response) or reply.status_code != 200:
        raise UnusableAnswer(
            f"{story}: your function returned {reply!r}. It must return the reply."
        )


async def require_two(lab: Lab, alice: User, receiver: User, send: Any) -> None:
    """Let a user send the same text twice on purpose, and then another text."""
    text = f"Yes {secrets.token_hex(4)}"
    async with _client(alice, Network()) as http:
        for said in (text, text, f"{text}!"):
            reply = await await_answer(send, http, receiver.id, said)
            if reply.status_code != 200:
                raise UnusableAnswer(
                    f"Two different messages: the service replied {reply.status_code} to the second"
                    " one. A clientId stands for one message, so each needs its own."
                )
    saved = lab.mongo.messages.count_documents({"text": text})
    if saved != 2:
        raise UnusableAnswer(
            f"Alice wrote the same text twice, on purpose. MongoDB has {saved} message, and not 2:"
            " both had the same clientId."
        )


async def require_end(alice: User, send: Any) -> None:
    """Send to a user who does not exist: no repetition helps."""
    network = Network()
    async with _client(alice, network) as http:
        try:
            reply = await await_answer(send, http, "no-such-user", "Hello?")
        except UnusableAnswer as error:
            raise UnusableAnswer(
                f"The service replied 404 to {network.attempts} attempts, because the receiver does"
                f" not exist. {error}"
            ) from None
    if network.attempts != 1 or getattr(reply, "status_code", 0) != 404:
        raise UnusableAnswer(
            f"The receiver does not exist. Your function sent {network.attempts} requests, and"
            f" returned {reply!r}. A status below 500 is final: return this reply."
        )


async def _require_all_once(lab: Lab, alice: User, receiver: User, send: Any) -> None:
    """Send from several tasks, and kill and restart the service meanwhile."""
    mark = secrets.token_hex(4)
    texts, done = [f"{mark} {number}" for number in range(MESSAGES)], list[str]()
    waiting = iter(texts)

    async def write() -> None:
        for text in waiting:
            await send(alice.http, receiver.id, text)
            done.append(text)
            if len(done) == KILL_AT:
                await lab.kill_service()
                await lab.restart()

    writers = (asyncio.wait_for(write(), BURST_S) for _ in range(WRITERS))
    ends = await asyncio.gather(*writers, return_exceptions=True)
    if errors := [end for end in ends if end]:
        raise UnusableAnswer(
            f"The service was killed and started again, and your function raised {errors[0]!r}."
        )
    saved = [one["text"] for one in lab.mongo.messages.find({"text": {"$in": texts}})]
    if sorted(saved) != sorted(texts):
        raise UnusableAnswer(
            f"The service was killed among {MESSAGES} sends. Afterwards MongoDB had {len(saved)}"
            f" messages, {len(set(saved))} of them different."
        )


# --- claims ---------------------------------------------------------------------------------------


def claims(
    lab: Lab, outcomes: Mapping[str, Outcome | Kept], disk: Disk, swept: Reads, unswept: Reads
) -> ClaimResults:
    """Return the verdicts for the document's claims about reliability."""
    lost = sum(one.lost for one in outcomes.values())
    killed = ", ".join(outcomes)
    lost_disk = disk.acknowledged - disk.left
    return lab.record_claims(
        ClaimResult(
            "never_lost",
            f"kill -9 for {killed}: {lost} acknowledged messages lost; without its disk: {lost_disk} of"
            f" {disk.acknowledged} lost",
            FAILS if lost else DEPENDS if lost_disk else HOLDS,
        ),
        ClaimResult(
            "worker_consistency",
            f"with the sweeper {swept.right} of {swept.of} reads are right, without it"
            f" {unswept.right} of {unswept.of}",
            holds_if(swept.right == swept.of and unswept.right < unswept.of),
        ),
    )
