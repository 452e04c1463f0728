"""Notebook 01: a send with httpx, a query with pymongo, and what the service rejects."""

import json
from typing import Any

import httpx

from chatlab.client import Json
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    await_answer,
    call_answer,
    check,
    correct,
    not_yet,
)
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.diagram import STAGES
from chatlab.lab.session import Lab
from chatlab.lab.trace import stages_of

SEND = "/api/messages/send"
REJECTED = ({"receiverId": "nobody", "text": "Hello"}, {"receiverId": "bob", "text": ""})


# --- exercises ------------------------------------------------------------------------------------


@check
async def sends(lab: Lab, send: Any) -> CheckResult:
    """Check an async function that sends with httpx, and raises an error with the detail."""
    alice, _ = await lab.user("alice"), await lab.user("bob")
    message = await await_answer(send, alice.http, "bob", "Sent by my own function")
    if not isinstance(message, dict) or "_id" not in message:
        return not_yet(f"It returned {_short(message)}. It must return the message: reply.json().")
    if lab.find_messages(_id=message["_id"]) != [message]:
        return not_yet(f"MongoDB has no such message: {_short(message)}.")
    for body in REJECTED:
        problem = (await alice.http.post(SEND, json=body)).json()
        try:
            said = await await_answer(send, alice.http, body["receiverId"], body["text"])
        except UnusableAnswer as error:
            if problem["detail"] not in str(error):
                return not_yet(f'The error must contain the detail: "{problem["detail"]}" {error}')
        else:
            return not_yet(
                f"The service rejected {body} with {problem['status']}, but your function raised no"
                f" error. It returned {_short(said)}."
            )
    return correct(
        f"It sent message {message['seq']} of alice:bob. When the service rejected a send, it raised"
        " an error that says why."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@check
async def finds_after(lab: Lab, find: Any) -> CheckResult:
    """Check a function that finds the messages after a seq. The API returns the same ones."""
    names = ("alice", "bob", "carol")
    users = {name: await lab.user(name) for name in names}
    for number, (sender, receiver) in enumerate(
        (("alice", "bob"), ("bob", "alice"), ("alice", "bob"), ("carol", "bob"), ("bob", "carol"))
    ):
        # With a client id, a second check sends nothing new.
        await users[sender].send_by_http(receiver, "The same words", clientId=f"check {number}")
    for one, other, seq in (("alice", "bob", 1), ("bob", "alice", 2), ("bob", "carol", 0)):
        wanted = [message["seq"] for message in (await users[one].read(other, after=seq)).messages]
        said = call_answer(lambda: [dict(found) for found in find(lab.mongo, one, other, seq)])  # noqa: B023 - called at once
        conversation = ":".join(sorted([one, other]))
        place = [(found.get("conversation"), found.get("seq")) for found in said]
        if place != [(conversation, number) for number in wanted]:
            return not_yet(
                f"For {one}, {other} and {seq}, the API returns the messages {wanted} of"
                f" {conversation}. Your function returned {place or 'nothing'}."
            )
    return correct("For three conversations it found the same messages as the API, in their order.")


@check
async def rejected(lab: Lab, body: Any) -> CheckResult:
    """Check a body that the service rejects with 422. Nothing may be saved."""
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError):
        raise UnusableAnswer("JSON cannot express this body.") from None
    alice, before = await lab.user("alice"), lab.mongo.messages.count_documents({})
    reply = await alice.http.post(SEND, json=body)
    saved = lab.mongo.messages.count_documents({}) - before
    if reply.status_code == 422 and not saved:
        return correct(f'422: "{reply.json()["detail"]}" Nothing was saved.')
    if reply.is_success:
        return not_yet(
            f"200: it was saved, from {reply.json()['senderId']} to {reply.json()['receiverId']}."
            " Unknown fields are ignored. A text has 1 to 4000 characters, and a user id has a"
            " spelling: break one of these rules."
        )
    return not_yet(
        f'{reply.status_code}: "{reply.json()["detail"]}" It was rejected, but not for its form. 422'
        " is for a body in which a field is missing, too long or of a wrong type."
    )


# --- claims ---------------------------------------------------------------------------------------


async def claims(lab: Lab, sent: httpx.Response, refused: httpx.Response) -> ClaimResults:
    """Compare the document's claims about a send with a send, and one with a wrong token."""
    message: Json = sent.json()
    stages = stages_of(await lab.events.trace_events(message["_id"]))
    same = lab.find_messages(_id=message["_id"]) == [message]
    body = "the message as MongoDB has it" if same else "not what MongoDB has"
    return lab.record_claims(
        ClaimResult("seven_boxes", ", ".join(stages), holds_if(stages == STAGES)),
        ClaimResult(
            "one_answer",
            f"{_status(sent)} and {body}; with a wrong token {_status(refused)}",
            holds_if(_status(sent) == "200 OK" and same),
        ),
    )


def _status(reply: httpx.Response) -> str:
    return f"{reply.status_code} {reply.reason_phrase}"
