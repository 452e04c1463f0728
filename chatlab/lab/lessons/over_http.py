"""Notebook 01: a send over HTTP, as bytes; who makes which field; what is refused before anything is saved."""

import asyncio
import json
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bson.errors import InvalidDocument
from pymongo.errors import PyMongoError

from chatlab.bench.raw_http import encode_request, find_header
from chatlab.client import Json
from chatlab.domain.trace import StageEvent
from chatlab.lab.checks import CheckResult, UnusableAnswer, check, correct, not_yet
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.diagram import STAGES
from chatlab.lab.session import Lab
from chatlab.lab.tables import Rows
from chatlab.lab.user import User

PATH = "/api/messages/send"
PATIENCE = 10  # seconds for an answer
QUERY_MS = 2000  # what a learner's query may take
MAKERS = {
    "_id": "the service, in create",
    "seq": "the service, in save: the place in the conversation",
    "version": "the service: 1 at first, one more with each change",
    "senderId": "the token",
    "receiverId": "the body",
    "text": "the body",
    "clientId": "the body, if it has one",
    "reactions": "later changes",
    "createdAt": "the service, in create: its own clock",
    "editedAt": "later changes",
    "deletedAt": "later changes",
    "replyTo": "the body, if it has one",
}


# --- the bytes -----------------------------------------------------------------------------------------------------------------


class Exchange(NamedTuple):
    """A request and its answer as they went over the wire; `body` is what the answer holds: the message, or what is wrong.

    `boxes`: those of the send diagram that this request passed.
    """

    asked: str
    answered: str
    status: str
    body: Json
    boxes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"{_marked('>', self.asked)}\n\n{_marked('<', self.answered)}"


def _marked(mark: str, text: str) -> str:
    return "\n".join(f"{mark} {line}".rstrip() for line in text.splitlines())


async def send(sender: User, body: Json, token: str = "") -> Exchange:
    """POST a body with the sender's token, or with another one."""
    place, began = urlsplit(sender.url), time.time() * 1000
    head = f"Host: localhost\r\nAuthorization: Bearer {token or sender.token}\r\n"
    request = encode_request("POST", PATH, head, json.dumps(body).encode())
    begin, answer = await asyncio.wait_for(
        _answer(place.hostname or "", place.port or 80, request), PATIENCE
    )
    told = json.loads(answer)
    boxes = await _boxes(sender, began, refused="_id" not in told)
    asked = request.decode().replace(sender.token, f"({sender.id}'s token)")
    status = begin.partition("\r\n")[0].partition(" ")[2]
    return Exchange(asked, f"{_shown(begin)}\r\n\r\n{answer.decode()}", status, told, boxes)


async def _answer(host: str, port: int, request: bytes) -> tuple[str, bytes]:
    """Head and body of the answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
        return head.decode(), await reader.readexactly(int(find_header(head, b"content-length")))
    finally:
        writer.close()


def _shown(head: str) -> str:
    """Without the date, and in an order of its own: that of headers means nothing."""
    status, *headers = head.split("\r\n")
    return "\r\n".join(
        [status, *sorted(line for line in headers if not line.lower().startswith("date:"))]
    )


async def _boxes(sender: User, began: float, *, refused: bool) -> tuple[str, ...]:
    """The boxes that the request passed which began then. After a refusal a read is made: when its events have come, all have."""
    events = sender.events

    def heard() -> list[StageEvent]:
        return [event for event in events if event["door"] == "http" and event["at"] >= began]

    if refused:
        await sender.read(sender.id, fresh=True, limit=1)
    end = "read_store" if refused else "respond"
    await events.wait_for(lambda: any(event["stage"] == end for event in heard()))
    reads = {event["trace"] for event in heard() if event["stage"] == "read_store"}
    return tuple(event["stage"] for event in heard() if event["trace"] not in reads)


# --- what it has become ----------------------------------------------------------------------------------------------------------


def fields(exchange: Exchange) -> Rows:
    """The message of an answer, with who made each of its fields."""
    return Rows(
        ("field", "value", "made by"),
        [(name, json.dumps(value), MAKERS[name]) for name, value in exchange.body.items()],
    )


# --- exercises -------------------------------------------------------------------------------------------------------------------


@check
async def finds(lab: Lab, exchange: Exchange, answer: Any) -> CheckResult:
    """Does this query find the message and no other? Others are there: with the same text, and with the same seq."""
    if not isinstance(answer, dict):
        return not_yet('A query is a dict of fields and values, such as {"senderId": "alice"}.')
    await _others(lab, exchange)
    try:
        found = [
            str(document["_id"])
            for document in lab.mongo.messages.find(answer).max_time_ms(QUERY_MS)
        ]
    except (PyMongoError, InvalidDocument) as wrong:
        raise UnusableAnswer(
            f"MongoDB does not take this as a query: {str(wrong).partition(', full error')[0]}"
        ) from None
    if found == [exchange.body["_id"]]:
        return correct(
            f"Of {lab.mongo.messages.count_documents({})} messages your query finds one, and it is yours."
        )
    if not found:
        return not_yet(_nothing(answer))
    yours = "yours among them" if exchange.body["_id"] in found else "and not yours"
    return not_yet(
        f"It finds {len(found)} messages, {yours}. Two fields together are different in every document: which are they?"
    )


async def _others(lab: Lab, exchange: Exchange) -> None:
    """Messages that are easily taken for this one. With client ids: however often it is checked, each is there once."""
    alice, bob, carol = [await lab.user(name) for name in ("alice", "bob", "carol")]
    for sender, receiver in ((alice, bob), (carol, bob), (bob, carol)):
        await sender.send_by_http(receiver.id, exchange.body["text"], clientId="another")


def _nothing(query: Json) -> str:
    if isinstance(query.get("_id"), str):
        return "It finds nothing: in MongoDB an _id is an ObjectId, and text is not equal to it."
    return "It finds nothing. Look at the document above: are names and values spelt so? senderId is who the token stands for."


@check
async def refused(lab: Lab, answer: Any) -> CheckResult:
    """Is this body refused with 422, and nothing saved?"""
    _must_be_a_body(answer)
    alice, before = await lab.user("alice"), lab.mongo.messages.count_documents({})
    exchange = await send(alice, answer)
    saved = lab.mongo.messages.count_documents({}) - before
    if exchange.status.startswith("422") and not saved and not exchange.boxes:
        return correct(
            f'{exchange.status}: "{exchange.body["detail"]}" No box was passed, and nothing was saved.'
        )
    if exchange.status.startswith("200"):
        return not_yet(
            f"{exchange.status}: it was saved, from {exchange.body['senderId']} to {exchange.body['receiverId']}. Fields that are not "
            "asked for are ignored. A text has 1 to 4000 characters, and a receiverId has its spelling: break one of these rules."
        )
    return not_yet(
        f'{exchange.status}: "{exchange.body["detail"]}" Refused, but not for its shape. 422 is for a body that is no send at all: '
        "something is missing, or too long, or of a wrong type."
    )


def _must_be_a_body(answer: Any) -> None:
    try:
        json.dumps(answer)
    except (TypeError, ValueError):
        answer = None
    if not isinstance(answer, dict):
        raise UnusableAnswer(
            'A body is a dict that JSON can say, such as {"receiverId": "bob", "text": "Hello"}.'
        )


@check
async def once(lab: Lab, answer: Any) -> CheckResult:
    """Does this body, sent twice, make one message?"""
    _must_be_a_body(answer)
    alice = await lab.user("alice")
    first, again = await send(alice, answer), await send(alice, answer)
    if "_id" not in first.body:
        return not_yet(f'{first.status}: "{first.body["detail"]}" Nothing was sent at all.')
    if first.body != again.body:
        return not_yet(
            f"Two messages: seq {first.body['seq']} and seq {again.body['seq']}, each with an _id of its own. The service cannot know that "
            "you meant the same one. Which field of a message above is still null, and is the body's to fill?"
        )
    return correct(
        f"Twice the same answer, seq {first.body['seq']}. The second time it passed no boxes but {', '.join(again.boxes)}."
    )


# --- what holds ------------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, sent: Exchange, stranger: Exchange) -> ClaimResults:
    """What the document says of a send over HTTP, held against this one and against one with a wrong token."""
    same = lab.find_messages(_id=sent.body["_id"]) == [sent.body]
    body = "the message as MongoDB has it" if same else "not what MongoDB has"
    return lab.record_claims(
        ClaimResult("seven_boxes", ", ".join(sent.boxes), holds_if(sent.boxes == STAGES)),
        ClaimResult(
            "one_answer",
            f"{sent.status} and {body}; with a wrong token {stranger.status}",
            holds_if(sent.status == "200 OK" and same),
        ),
    )
