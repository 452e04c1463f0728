"""Notebook 03: what a save waits for, who creates the _id, which index is used, and `kill -9`."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx
from bson import ObjectId
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from chatlab.client import Json
from chatlab.errors import ChatlabError, EngineError
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.user import User

TRIES = 5  # to kill between two boxes; one is enough unless the machine stalls
WRITERS, ENOUGH = 6, 100  # senders at the same time, and replies before MongoDB is killed
INSERTS, ROUNDS = 300, 2  # inserts before MongoDB is killed, and how often that is tried
BACK_S = 60.0  # for the service to find a server that is back
QUERY_MS = 2000
PROFILE_ALL, PROFILE_OFF = 2, 0


# --- the service killed between save and cache ----------------------------------------------------


class Killed(NamedTuple):
    """A send during which the service was killed. `keys`: those in Redis that contain it."""

    body: Json
    documents: list[Json]
    keys: list[str]

    def __repr__(self) -> str:
        return (
            "Alice received  no reply: the connection broke\n"
            f"Redis has       {', '.join(self.keys) or 'no copy'}\n"
            f"MongoDB has     {len(self.documents)} message with this clientId"
        )


async def kill_between_save_and_cache(lab: Lab, sender: User, receiver: str, text: str) -> Killed:
    """Send, and kill the service after the save and before the cache. It is running afterwards."""
    for attempt in range(TRIES):
        body = {"receiverId": receiver, "text": text, "clientId": f"{text} {attempt}"}
        killed, has_reply = await _kill_after_save(lab, sender, body)
        if killed.documents and not has_reply:
            return killed
    raise EngineError("The service was always faster than the kill.", "run the cell again")


async def _kill_after_save(lab: Lab, sender: User, body: Json) -> tuple[Killed, bool]:
    """Freeze Redis, so that the service stops after the save, and kill both of them there.

    Redis would otherwise run the commands that it has received when it continues.
    """
    of_client, r = {"clientId": body["clientId"]}, lab.redis
    # The notebook watches cached keys, and would wait for a frozen Redis.
    await poll_until(lambda: not r.keys("message*"), lab.settings.cache_ttl + 2)
    lab.engines.freeze("redis")
    sending = asyncio.ensure_future(sender.http.post("/api/messages/send", json=body))
    await poll_until(
        lambda: sending.done() or lab.mongo.messages.count_documents(of_client), BACK_S, 0.001
    )
    await lab.kill_service()
    await lab.engines.crash("redis")
    reply = (await asyncio.gather(sending, return_exceptions=True))[0]
    documents = lab.find_messages(**of_client)
    ids = {document["_id"] for document in documents}
    keys = [
        key
        for key in r.scan_iter("message*")
        if any(number in str(value_of(r, key)) for number in ids)
    ]
    await lab.restart()
    return Killed(body, documents, keys), isinstance(reply, httpx.Response)


# --- the _id --------------------------------------------------------------------------------------


class EarlyId(NamedTuple):
    """The _id that the service reported while MongoDB was frozen, and the one in MongoDB later."""

    boxes: tuple[str, ...]
    reported: str
    stored: str

    def __repr__(self) -> str:
        return (
            f"while MongoDB is frozen  boxes {', '.join(self.boxes)}; _id {self.reported}\n"
            f"later in MongoDB         _id {self.stored}"
        )


async def send_while_mongodb_is_frozen(lab: Lab, sender: User, receiver: User) -> EarlyId:
    """Freeze MongoDB, send, read the _id that the service reports, and let MongoDB continue."""
    # The service asks MongoDB for both users now, so that it does not in the next send.
    await sender.send(receiver, "Are you there?")
    seen = len(lab.events)
    lab.engines.freeze("mongo")
    sending = asyncio.ensure_future(sender.send(receiver, "Who creates my _id?"))
    created = await lab.events.wait_for(
        lambda: next((event for event in [*lab.events][seen:] if event["stage"] == "create"), None)
    )
    boxes = tuple(
        event["stage"] for event in lab.events if created and event["trace"] == created["trace"]
    )
    lab.engines.thaw("mongo")
    stored = lab.find_messages(_id=(await sending).id)
    return EarlyId(boxes, created["messageId"] if created else "none", stored[0]["_id"])


# --- MongoDB killed -------------------------------------------------------------------------------


class Kept(NamedTuple):
    """The sends that were acknowledged before and during a kill of MongoDB."""

    acknowledged: int
    lost: int
    per_insert: float

    def __repr__(self) -> str:
        return (
            f"acknowledged           ≈ {self.acknowledged}\n"
            f"acknowledged and lost  {self.lost}\n"
            f"messages in an insert  ≈ {self.per_insert:.1f} on average"
        )


async def kill_mongodb_under_load(lab: Lab, *users: User) -> Kept:
    """Send from everybody to everybody, kill MongoDB, and look for what was acknowledged."""
    return await kill_under_load(lab, lambda: lab.engines.crash("mongo"), *users)


async def kill_under_load(lab: Lab, kill: Callable[[], Awaitable[Any]], *users: User) -> Kept:
    """Do the same with another kill. The service is running again when `kill` returns."""
    acknowledged, stopped = list[str](), asyncio.Event()
    pairs = [(sender, receiver) for sender in users for receiver in users][:WRITERS]
    sending = [asyncio.ensure_future(_send_until(stopped, *pair, acknowledged)) for pair in pairs]
    await poll_until(
        lambda: len(acknowledged) >= ENOUGH or all(task.done() for task in sending), BACK_S, 0.001
    )
    per_insert = await _messages_per_insert(users[0])
    await kill()
    stopped.set()
    await asyncio.gather(*sending)
    await until_ready(users[0])
    there = {str(document["_id"]) for document in lab.mongo.messages.find({}, {"_id": 1})}
    return Kept(len(acknowledged), len(set(acknowledged) - there), per_insert)


async def _send_until(
    stopped: asyncio.Event, sender: User, receiver: User, acknowledged: list[str]
) -> None:
    """Send until `stopped` is set, or a send fails."""
    with contextlib.suppress(ChatlabError, httpx.HTTPError):
        while not stopped.is_set():
            result = await sender.send_by_http(receiver.id, "one of many")
            acknowledged.append(result.message["_id"])


async def _messages_per_insert(user: User) -> float:
    metrics = (await user.http.get("/metrics")).text
    count, total = (
        float(re.findall(rf"^chatlab_save_batch_messages_{what} (\S+)", metrics, re.MULTILINE)[0])
        for what in ("count", "sum")
    )
    return total / count if count else 0.0


async def until_ready(user: User) -> None:
    """Wait until the service has found its servers again."""
    async with asyncio.timeout(BACK_S):
        while (await user.http.get("/readyz")).is_error:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)


async def is_lost_without_reply(lab: Lab) -> bool:
    """Return True if MongoDB, killed while it is frozen, lacks a document inserted with w=0."""
    document, notes = {"_id": ObjectId()}, lab.mongo["notes"]
    notes.insert_one({})  # opens the connection
    lab.engines.freeze("mongo")
    notes.with_options(write_concern=WriteConcern(w=0)).insert_one(document)
    await lab.engines.crash("mongo")
    return notes.count_documents(document) == 0


# --- exercises ------------------------------------------------------------------------------------


class Inserted(NamedTuple):
    acknowledged: int
    lost: int
    error: str


async def _insert_and_kill(lab: Lab, save: Any, database: Database[Json]) -> Inserted:
    """Call `save` with one document after another, kill MongoDB, and count what is missing."""
    batch, errors = ObjectId(), list[str]()
    acknowledged, stopped = list[int](), threading.Event()

    def insert() -> None:
        try:
            while not stopped.is_set():
                save(database, {"batch": batch, "number": len(acknowledged)})
                acknowledged.append(len(acknowledged))
        except Exception as error:  # noqa: BLE001 - the kill, or an error of a learner's function
            errors.append(str(error).partition(", full error")[0])

    inserting = asyncio.ensure_future(asyncio.to_thread(insert))
    await poll_until(lambda: len(acknowledged) >= INSERTS or inserting.done(), BACK_S, 0.001)
    await lab.engines.crash("mongo")
    stopped.set()
    await inserting
    there = {note.get("number") for note in lab.mongo["notes"].find({"batch": batch})}
    return Inserted(len(acknowledged), len(set(acknowledged) - there), "".join(errors))


def _careless(lab: Lab) -> Database[Json]:
    """Return the session's database, opened so that an insert does not wait for the journal."""
    lab.mongo["notes"].insert_one({})  # opens the connection
    concern = WriteConcern(w=1, j=False)
    return lab.mongo.client.get_database(lab.mongo.name, write_concern=concern)


@check
async def saves_durably(lab: Lab, save: Any) -> CheckResult:
    """Check a function that inserts and waits for a majority. MongoDB is killed meanwhile."""
    database = _careless(lab)
    concern = _write_concern(lab, lambda: call_answer(save, database, {"number": -1}))
    if concern is None:
        return not_yet("It inserted nothing into the collection notes.")
    if concern.get("w") != "majority":
        return not_yet(
            f"MongoDB received the insert with the write concern {concern}. Which w waits for a"
            " majority? Use db.notes.with_options(write_concern=...)."
        )
    result = await _insert_and_kill(lab, save, database)
    if result.lost or result.acknowledged < INSERTS:
        return not_yet(
            f"{result.acknowledged} inserts were acknowledged, and {result.lost} of them are lost."
            f" {result.error}"
        )
    return correct(
        "MongoDB was killed among hundreds of inserts, and every acknowledged document is there."
    )


def _write_concern(lab: Lab, act: Any) -> Json | None:
    """Return the write concern of the insert that `act` sends, as MongoDB's profiler records it."""
    notes = lab.mongo["notes"].full_name
    lab.mongo.command("profile", PROFILE_ALL, filter={"op": "insert", "ns": notes})
    before = lab.mongo["system.profile"].count_documents({})
    try:
        act()
    finally:
        lab.mongo.command("profile", PROFILE_OFF)
    entries = list(lab.mongo["system.profile"].find().sort("$natural", 1).skip(before))
    return dict(entries[-1]["command"].get("writeConcern", {})) if entries else None


@check
async def weakens(lab: Lab, concern: Any) -> CheckResult:
    """Check a write concern with which MongoDB loses something that it has acknowledged."""
    if not isinstance(concern, dict):
        raise UnusableAnswer(
            "A write concern must be a dict, such as {'w': 'majority', 'j': True}."
        )
    acknowledged = 0
    try:
        options = WriteConcern(**concern)
        lab.mongo["notes"].with_options(write_concern=options).insert_one({})
    except (PyMongoError, TypeError, ValueError) as error:
        reason = str(error).partition(", full error")[0]
        raise UnusableAnswer(f"MongoDB or its driver rejects this: {reason}") from None
    for _ in range(ROUNDS):
        result = await _insert_and_kill(
            lab, lambda db, note: db.notes.insert_one(note), _with(lab, options)
        )
        acknowledged += result.acknowledged
        if result.lost:
            if not options.acknowledged:
                return correct(
                    "insert_one returned hundreds of times, and MongoDB was killed. Some documents"
                    " are lost, and no error said so. But w=0 asks for no acknowledgement. Try a"
                    " write concern that asks for one, and loses documents all the same."
                )
            return correct(
                "MongoDB acknowledged hundreds of inserts and was killed. Some of them are lost, and"
                " no error said so."
            )
    return not_yet(
        f"{acknowledged} inserts were acknowledged, MongoDB was killed {ROUNDS} times, and all are"
        " there. w says how many servers must have a document before the reply, and j whether it"
        " must be in their journals."
    )


def _with(lab: Lab, concern: WriteConcern) -> Database[Json]:
    return lab.mongo.client.get_database(lab.mongo.name, write_concern=concern)


@check
async def uses_an_index(lab: Lab, killed: Killed, query: Any) -> CheckResult:
    """Check a query that finds one message by an index, and looks at no other document."""
    if not isinstance(query, dict):
        raise UnusableAnswer("A query must be a dict, such as {'senderId': 'alice'}.")
    if lab.find_messages(clientId=killed.body["clientId"]) != killed.documents:
        raise PremiseGone("The message is not in MongoDB.", "run the cell that sends it again")
    if "_id" in query:
        raise UnusableAnswer("By its _id you find every message. Use another index.")
    try:
        found = list(lab.mongo.messages.find(query, {"_id": 1}).max_time_ms(QUERY_MS))
        asked = {"find": "messages", "filter": query}
        plan = lab.mongo.command("explain", asked, verbosity="executionStats", maxTimeMS=QUERY_MS)
    except PyMongoError as error:
        reason = str(error).partition(", full error")[0]
        raise UnusableAnswer(f"MongoDB rejects this query: {reason}") from None
    if [str(document["_id"]) for document in found] != [killed.documents[0]["_id"]]:
        return not_yet(f"It finds {len(found)} messages. It must find Alice's first one only.")
    names = re.findall(r"'indexName': '(\w+)'", str(plan["queryPlanner"]["winningPlan"]))
    examined = plan["executionStats"]["totalDocsExamined"]
    if names and examined == 1:
        return correct(f"MongoDB used the index {names[0]}, and looked at 1 document.")
    return not_yet(
        f"It finds the message, but MongoDB looked at {examined} documents, with"
        f" {f'the index {names[0]}' if names else 'no index'}. {_hint(query)}"
    )


def _hint(query: Json) -> str:
    if "clientId" in query:
        return (
            "The index once contains only messages whose clientId is a string, and MongoDB uses it"
            ' only if the query says so: {"$eq": ..., "$type": "string"}. The index place is easier.'
        )
    return "MongoDB can use an index if the query names its first field. Which fields are these?"


# --- claims ---------------------------------------------------------------------------------------


def claims(
    lab: Lab, killed: Killed, early: EarlyId, kept: Kept, lost_with_w0: bool
) -> ClaimResults:
    """Compare the document's claims about saving with what survived the kills."""
    is_early = early.reported == early.stored
    survived = bool(killed.documents) and not kept.lost
    return lab.record_claims(
        ClaimResult(
            "save_makes_id",
            "the service created it while MongoDB was frozen"
            if is_early
            else "it did not exist before the save",
            holds_if(not is_early),
        ),
        ClaimResult(
            "never_lost",
            f"service killed after the save: MongoDB has {len(killed.documents)} message; MongoDB"
            f" killed: {kept.lost} acknowledged messages lost; with w=0:"
            f" {'a document was lost' if lost_with_w0 else 'no document was lost'}",
            (DEPENDS if lost_with_w0 else HOLDS) if survived else FAILS,
        ),
    )
