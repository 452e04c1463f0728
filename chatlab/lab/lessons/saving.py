"""Notebook 03: what a save waits for, who makes the _id, which index finds what, and what is there after `kill -9`."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Iterator, Sized
from typing import Any, NamedTuple

import httpx
from bson import ObjectId
from pymongo import WriteConcern
from pymongo.errors import PyMongoError

from chatlab.client import Json, SendResult
from chatlab.errors import ChatlabError, EngineError, StoreUnavailable
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.tables import Rows
from chatlab.lab.trace import Trace
from chatlab.lab.user import User

TRIES = 5  # to strike in between; one is enough but on a machine that stands still
WRITERS, ENOUGH = 6, 100  # senders at once, and answers before MongoDB is killed
PROMISES, ROUNDS = 300, 2  # inserts answered before MongoDB is killed, and how often that is tried
BACK = 15.0  # seconds for the service to find an engine that is back
TIMES = {0: "not at all", 1: "once", 2: "twice"}
NO_INDEX, OF_ID = "none: looks through all", "_id_"


# --- killed in between -----------------------------------------------------------------------------------------------------------


class Killed(NamedTuple):
    """A send that was saved, and then its service was killed. `keys`: what Redis had of it afterwards."""

    text: str
    client_id: str
    documents: list[Json]
    keys: list[str]

    def __repr__(self) -> str:
        redis = ", ".join(self.keys) or "nothing of it"
        return f"Alice was told  nothing: the connection broke\nRedis has       {redis}\nMongoDB has     it {_times(len(self.documents))}"


def _times(count: int) -> str:
    return TIMES.get(count, f"{count} times")


def times(found: Sized) -> str:
    """How often, in a word."""
    return _times(len(found))


async def killed_between(lab: Lab, sender: User, receiver: User, text: str) -> Killed:
    """Send, and kill the service between the save and the cache. The client id is the text and a number."""
    for attempt in range(TRIES):
        killed, unanswered = await _killed_after_save(
            lab, sender, receiver, Killed(text, f"{text} {attempt}", [], [])
        )
        if unanswered and killed.documents:
            return killed
    raise EngineError("The service was always quicker than the kill.", "run the cell again")


async def _killed_after_save(
    lab: Lab, sender: User, receiver: User, of: Killed
) -> tuple[Killed, bool]:
    """Freeze Redis, send, and kill the service as soon as MongoDB has the message; Redis too, or it would go on with what it was told."""
    await _nothing_cached(lab)
    lab.engines.freeze("redis")
    sending = asyncio.ensure_future(again(of, sender, receiver))
    await poll_until(
        lambda: sending.done() or lab.mongo.messages.count_documents({"clientId": of.client_id}),
        BACK,
        interval_s=0.001,
    )
    await lab.kill_service()
    await lab.engines.crash("redis")
    outcome = (await asyncio.gather(sending, return_exceptions=True))[0]
    documents = lab.find_messages(clientId=of.client_id)
    keys = [
        key
        for key in sorted(lab.redis.scan_iter("message*"))
        if documents and documents[0]["_id"] in str(value_of(lab.redis, key))
    ]
    await lab.restart()
    return of._replace(documents=documents, keys=keys), isinstance(outcome, httpx.HTTPError)


async def _nothing_cached(lab: Lab) -> None:
    """Wait for the end of what is cached: the notebook asks for it while it lives, and would wait for a frozen Redis."""
    await lab.events.wait_for(
        lambda: not lab.redis.keys("message*"), timeout_s=lab.settings.cache_ttl + 2
    )


def _must_be_there(lab: Lab, killed: Killed) -> None:
    if lab.find_messages(clientId=killed.client_id) != killed.documents:
        raise PremiseGone(
            "The message whose service was killed is not in this session's MongoDB.",
            "run the cell that sends it and kills the service again",
        )


async def again(killed: Killed, sender: User, receiver: User) -> SendResult:
    """The same send, with the same client id, as a client makes it again that has heard nothing."""
    return await sender.send_by_http(receiver.id, killed.text, clientId=killed.client_id)


# --- who makes the _id -----------------------------------------------------------------------------------------------------------


class Born(NamedTuple):
    """`before`: the _id that the service told of while MongoDB stood still. `after`: that of the message in MongoDB, when it went on."""

    boxes: tuple[str, ...]
    before: str
    after: str

    def __repr__(self) -> str:
        return (
            f"MongoDB stands still. Boxes passed: {', '.join(self.boxes)}\n"
            f"the _id at the end of box create   {self.before}\n"
            f"MongoDB goes on. The message there {self.after}"
        )


async def born(lab: Lab, sender: User, receiver: User) -> Born:
    """Freeze MongoDB, send, and see which boxes tell of an _id; then let it go on."""
    await sender.send(
        receiver, "Is everybody here?"
    )  # the service asks MongoDB who they are now, and not in between
    seen = len(lab.events)
    lab.engines.freeze("mongo")
    sending = asyncio.ensure_future(sender.send(receiver, "Who gives me my name?"))
    created = await lab.events.wait_for(
        lambda: next(
            (event for event in list(lab.events)[seen:] if event["stage"] == "create"), None
        )
    )
    boxes = tuple(
        event["stage"] for event in lab.events if created and event["trace"] == created["trace"]
    )
    lab.engines.thaw("mongo")
    trace = await sending
    stored = lab.find_messages(_id=trace.id)
    return Born(
        boxes, created["messageId"] if created else "none", stored[0]["_id"] if stored else "none"
    )


# --- what is asked of MongoDB ----------------------------------------------------------------------------------------------------


async def concern(lab: Lab, act: Awaitable[Trace]) -> Json:
    """The write concern of the insert that a send gives to MongoDB, as MongoDB's own profiler has it."""
    database = lab.mongo
    database.command("profile", 2, filter={"op": "insert", "ns": lab.mongo.messages.full_name})
    try:
        await act
    finally:
        database.command("profile", 0)
    entry = database["system.profile"].find_one({"op": "insert"}, sort=[("$natural", -1)])
    return dict(sorted(entry["command"]["writeConcern"].items(), reverse=True)) if entry else {}


def indexes(lab: Lab) -> dict[str, list[str]]:
    """The fields of each index of messages, in their order."""
    return {
        name: [field for field, _ in index["key"]]
        for name, index in lab.mongo.messages.index_information().items()
    }


class Plan(NamedTuple):
    """How MongoDB finds what a query asks for. `looked`: documents it has looked at, `found`: documents it gives."""

    by: str
    looked: int
    found: int


def plan(lab: Lab, query: Json, **more: Any) -> Plan:
    """MongoDB's own word on a query: `explain`."""
    asked = {"find": lab.mongo.messages.name, "filter": query, **more}
    told = lab.mongo.command("explain", asked, verbosity="executionStats", maxTimeMS=2000)
    stages = list(_stages(told["queryPlanner"]["winningPlan"]))
    named = [stage["indexName"] for stage in stages if "indexName" in stage]
    by_id = any(stage.get("stage", "").startswith(("IDHACK", "EXPRESS")) for stage in stages)
    stats = told["executionStats"]
    return Plan(
        named[0] if named else OF_ID if by_id else NO_INDEX,
        stats["totalDocsExamined"],
        stats["nReturned"],
    )


def _stages(part: Any) -> Iterator[Json]:
    """A plan is a tree of stages."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from _stages(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _stages(inner)


def plans(lab: Lab, killed: Killed) -> Rows:
    """Three questions, by which index MongoDB finds the answers, and how many documents it looks at for that."""
    _must_be_there(lab, killed)
    asked = {
        "the newest of a conversation": plan(
            lab, {"conversation": "alice:bob"}, sort={"seq": -1}, limit=1
        ),
        "the message with this _id": plan(lab, {"_id": ObjectId(killed.documents[0]["_id"])}),
        "a message with this text": plan(lab, {"text": killed.text}),
    }
    everything = lab.mongo.messages.count_documents({})
    rows = [
        (what, how.by, "all" if how.looked == everything else str(how.looked))
        for what, how in asked.items()
    ]
    return Rows(("asked for", "index", "documents looked at"), rows)


# --- MongoDB killed under load ---------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Sends that were answered before and around a `kill -9` of MongoDB, and how many of them are not there. `inserts`: they came in."""

    answered: int
    missing: int
    together: float

    def __repr__(self) -> str:
        lines = [
            f"answered           ≈ {self.answered}",
            f"answered and lost  {self.missing}",
            f"in one insert      ≈ {self.together:.1f} messages on average",
        ]
        return "\n".join(lines)


async def kept(lab: Lab, *people: User) -> Kept:
    """Everybody writes to everybody; MongoDB is killed; what was answered is counted when it is back."""
    answered, stopped = list[str](), asyncio.Event()
    pairs = [(sender, receiver) for sender in people for receiver in people][:WRITERS]
    writing = [
        asyncio.ensure_future(_write(sender, receiver, answered, stopped))
        for sender, receiver in pairs
    ]
    await poll_until(
        lambda: len(answered) >= ENOUGH or all(task.done() for task in writing),
        BACK,
        interval_s=0.001,
    )
    together = await _messages_in_an_insert(people[0])
    await lab.engines.crash("mongo")
    stopped.set()
    await asyncio.gather(*writing)
    await _ready(people[0])
    there = {str(document["_id"]) for document in lab.mongo.messages.find({}, {"_id": 1})}
    return Kept(len(answered), len(set(answered) - there), together)


async def _write(sender: User, receiver: User, answered: list[str], stopped: asyncio.Event) -> None:
    """Send until a send is not answered with a message."""
    with contextlib.suppress(ChatlabError, httpx.HTTPError):
        while not stopped.is_set():
            answered.append((await sender.send_by_http(receiver.id, "one of many")).message["_id"])


async def _messages_in_an_insert(person: User) -> float:
    told = (await person.http.get("/metrics")).text
    count, total = (
        float(re.findall(rf"^chatlab_save_batch_messages_{what} (\S+)", told, re.MULTILINE)[0])
        for what in ("count", "sum")
    )
    return total / count if count else 0.0


async def _ready(person: User) -> None:
    """Wait until the service has found its engines again."""
    async with asyncio.timeout(BACK):
        while (await person.http.get("/readyz")).is_error:  # noqa: ASYNC110 - the service tells nobody
            await asyncio.sleep(0.02)


# --- weaker promises -------------------------------------------------------------------------------------------------------------


class Promised(NamedTuple):
    """Inserts under one write concern around a `kill -9`: `answered`, and how many of these were gone."""

    answered: int
    lost: int


async def promised(lab: Lab, concern: WriteConcern) -> Promised:
    """Insert one after another, kill MongoDB, and count what is there when it is back. PyMongoError if it refuses the concern."""
    notes, of = lab.mongo["notes"], ObjectId()
    notes.insert_one({})  # a connection that is open
    asked = notes.with_options(write_concern=concern)
    asked.insert_one({})
    answered, stopped = list[int](), threading.Event()

    def insert() -> None:
        with contextlib.suppress(PyMongoError):
            while not stopped.is_set():
                asked.insert_one({"of": of, "n": len(answered)})
                answered.append(len(answered))

    inserting = asyncio.ensure_future(asyncio.to_thread(insert))
    await poll_until(lambda: len(answered) >= PROMISES or inserting.done(), BACK, interval_s=0.001)
    await lab.engines.crash("mongo")
    stopped.set()
    await inserting
    there = {note["n"] for note in notes.find({"of": of})}
    return Promised(len(answered), len(set(answered) - there))


class Unheard(NamedTuple):
    """Two writes into a MongoDB that stands still, and is then killed: one with w=0, one through the service. How often each is there."""

    careless: bool  # the driver called the first one done
    there: int
    promised: bool  # the service answered the second one with a message
    kept: int

    def __repr__(self) -> str:
        careless = "it is done" if self.careless else "it cannot be done"
        service = "it is sent" if self.promised else "503, MongoDB does not answer"
        return (
            f"with w=0, the driver says             {careless}\n"
            f"  and after the kill MongoDB has it   {_times(self.there)}\n"
            f"through the service, Alice is told    {service}\n"
            f"  and after the kill MongoDB has it   {_times(self.kept)}"
        )


async def unheard(lab: Lab, sender: User, receiver: User) -> Unheard:
    """Freeze MongoDB, write with w=0 and through the service, kill MongoDB, and look."""
    notes, of = lab.mongo["notes"], ObjectId()
    notes.insert_one({})  # a connection that is open
    lab.engines.freeze("mongo")
    careless = (
        notes.with_options(write_concern=WriteConcern(w=0)).insert_one({"_id": of}).inserted_id
        == of
    )
    try:
        promised = bool(await sender.send_by_http(receiver.id, "Do you hear me?", clientId=str(of)))
    except StoreUnavailable:
        promised = False
    await lab.engines.crash("mongo")
    await _ready(sender)
    return Unheard(
        careless,
        notes.count_documents({"_id": of}),
        promised,
        lab.mongo.messages.count_documents({"clientId": str(of)}),
    )


# --- exercises -------------------------------------------------------------------------------------------------------------------


@check
async def found(lab: Lab, answer: Any) -> CheckResult:
    """Does this function find a message whose service was killed between save and cache? Does it all again, and lets it look."""
    call_answer(answer, lab)  # one that cannot be used is told at once
    alice, bob = await lab.user("alice"), await lab.user("bob")
    killed = await killed_between(lab, alice, bob, "Find me")
    said = str(call_answer(answer, lab))
    if killed.documents[0]["_id"] in said:
        return correct(
            "The service was killed after the save, Redis has nothing of the message, and your function has found it."
        )
    redis = f"Redis has {'something' if killed.keys else 'nothing'} of it, MongoDB has it {_times(len(killed.documents))}"
    return not_yet(
        f"It was saved, the service was killed, and your function gives {_short(said)}. {redis}. Which box was it that had been passed?"
    )


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:57]}..."


@check
async def weakens(lab: Lab, answer: Any) -> CheckResult:
    """Is something lost that was answered under this write concern? Inserts, kills MongoDB, counts."""
    if not isinstance(answer, dict):
        raise UnusableAnswer(
            'A write concern is a dict of settings, such as {"w": "majority", "j": True}.'
        )
    try:
        asked, answered = WriteConcern(**answer), 0
        for _ in range(ROUNDS):
            found = await promised(lab, asked)
            answered += found.answered
            if found.lost:
                return correct(
                    f"{found.answered} inserts were answered, MongoDB was killed, and {found.lost} of them are gone. No error told of it."
                )
    except (PyMongoError, TypeError, ValueError) as wrong:
        raise UnusableAnswer(
            f"MongoDB or its driver does not take this: {str(wrong).partition(', full error')[0]}"
        ) from None
    return not_yet(
        f"{answered} inserts were answered, MongoDB was killed {ROUNDS} times, and all are there: this one still waits for the journal. "
        "w says how many must have it before there is an answer, j whether their journals must."
    )


@check
async def seeks(lab: Lab, killed: Killed, answer: Any) -> CheckResult:
    """Does MongoDB find the message by an index, and look at no other?"""
    if not isinstance(answer, dict):
        raise UnusableAnswer(
            'A query is a dict of fields and values, such as {"senderId": "alice"}.'
        )
    _must_be_there(lab, killed)
    if "_id" in answer:
        raise UnusableAnswer("By its _id anybody finds it. Which other index finds one message?")
    try:
        ids = [
            str(document["_id"])
            for document in lab.mongo.messages.find(answer, {"_id": 1}).max_time_ms(2000)
        ]
        how = plan(lab, answer)
    except PyMongoError as wrong:
        raise UnusableAnswer(
            f"MongoDB does not take this as a query: {str(wrong).partition(', full error')[0]}"
        ) from None
    if ids != [killed.documents[0]["_id"]]:
        return not_yet(
            f"It finds {len(ids)} messages. One is wanted: Alice's, with clientId {killed.client_id!r}."
        )
    if how.by != NO_INDEX and how.looked == 1:
        return correct(f"Found by the index {how.by}, and MongoDB looked at 1 document.")
    return not_yet(
        f"It finds the message, but MongoDB looked at {how.looked} documents, index: {how.by}. {_why_not(answer, how)}"
    )


def _why_not(query: Json, how: Plan) -> str:
    if how.by == NO_INDEX:
        return "An index is sorted by its first field, then by the next: who does not name the first cannot look anything up. Which begin how?"
    if "clientId" in query:
        return (
            "The index once holds only messages with a clientId, and MongoDB does not see that yours is one of them; it would with "
            '{"$eq": ..., "$type": "string"}. There is a shorter way, by the place.'
        )
    return "Which fields does that index have besides? Name them all."


# --- what holds ------------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, killed: Killed, born: Born, kept: Kept, unheard: Unheard) -> ClaimResults:
    """What the document says of saving, held against what was broken above."""
    before = born.before == born.after
    named = (
        "the service made it in create, while MongoDB stood still"
        if before
        else "it was not there before the save"
    )
    survived = (
        bool(killed.documents) and not kept.missing and not (unheard.promised and not unheard.kept)
    )
    lost = unheard.careless and not unheard.there
    told = (
        f"the service killed after the save: MongoDB has the message {_times(len(killed.documents))}; "
        f"MongoDB killed: {kept.missing} answered messages lost; with w=0: {'answered and lost' if lost else 'not lost'}"
    )
    return lab.record_claims(
        ClaimResult("save_makes_id", named, holds_if(not before)),
        ClaimResult("never_lost", told, (DEPENDS if lost else HOLDS) if survived else FAILS),
    )
