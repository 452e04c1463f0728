"""Notebook 02: sending and receiving with socketio, and what both transports leave behind."""

import asyncio
import functools
import json
from typing import Any, NamedTuple

import socketio

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
from chatlab.lab.polling import poll_until
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.tables import table_html
from chatlab.lab.user import User

REPLY_TIMEOUT_S = 10.0
TRANSPORTS = ("http", "socket")
DIFFERENT = ("_id", "seq", "createdAt")  # fields that two messages never have in common
REJECTED = ({"receiverId": "nobody", "text": "Hello"}, {"receiverId": "bob", "text": ""})


# --- both transports ------------------------------------------------------------------------------


class Left(NamedTuple):
    """What a send has left behind, without the ids. `is_cached`: each key had an expiry.

    `once`: both users received newMessage once.
    """

    rows: dict[str, str]
    is_cached: bool
    once: bool


class BothTransports(NamedTuple):
    """What the same text left behind when it was sent by each transport."""

    http: Left
    socket: Left

    @property
    def is_same(self) -> bool:
        return self.http.rows == self.socket.rows

    def __repr__(self) -> str:
        return "\n".join(
            f"{what:<24} {one}" if one == self.socket.rows[what] else f"{what:<24} they differ"
            for what, one in self.http.rows.items()
        )

    def _repr_html_(self) -> str:
        other = self.socket.rows
        rows = [
            (what, one, "the same" if one == other[what] else other[what])
            for what, one in self.http.rows.items()
        ]
        return table_html(("", "HTTP", "socket"), rows)


async def compare_transports(lab: Lab, sender: User, receiver: User) -> BothTransports:
    """Send the same text by each transport, and compare what it leaves behind."""
    return BothTransports(
        *[await _left_by(transport, lab, sender, receiver) for transport in TRANSPORTS]
    )


async def _left_by(transport: str, lab: Lab, sender: User, receiver: User) -> Left:
    trace = await sender.send(receiver, "The same words", transport=transport)
    keys = keys_of(lab, trace.id)
    ttls = [lab.redis.pttl(key) for key in keys]
    await _all_events_arrived(sender, receiver)
    times = {user.id: _count(user, trace.id) for user in (sender, receiver)}
    document = (lab.find_messages(_id=trace.id) or [{}])[0]
    fields = {name: value for name, value in document.items() if name not in DIFFERENT}
    rows = {
        "boxes passed": ", ".join(trace.stages),
        "the document in MongoDB": json.dumps(fields),
        "the reply": "the document" if document == trace.message else "not the document",
        "keys in Redis": ", ".join(key.replace(trace.id, "{_id}") for key in keys),
        "newMessage events": ", ".join(f"{name} {count}" for name, count in times.items()),
    }
    is_cached = len(keys) == 2 and all(ttl > 0 for ttl in ttls)
    return Left(rows, is_cached, once=set(times.values()) == {1})


async def _all_events_arrived(*users: User) -> None:
    """Wait for what was emitted: the answer to a new event arrives behind it."""
    await asyncio.gather(
        *(user.socket.call("is all here?", timeout=REPLY_TIMEOUT_S) for user in users)
    )


def _count(user: User, message_id: str) -> int:
    return sum(
        received.event == "newMessage" and received.payload["_id"] == message_id
        for received in user.received
    )


def keys_of(lab: Lab, message_id: str) -> list[str]:
    """Return the keys in Redis that contain this message. Raises PremiseGone if none does."""
    keys = sorted(lab.redis.scan_iter("message*"))
    found = [key for key in keys if message_id in str(value_of(lab.redis, key))]
    if not found:
        raise PremiseGone("The message is no longer in Redis.", "run the cell again")
    return found


# --- exercises ------------------------------------------------------------------------------------


@check
async def answers(lab: Lab, start_bot: Any) -> CheckResult:
    """Check a bot that replies to each message once. It is a new user each time."""
    alice, bot = await lab.user("alice"), await lab.new_user("bot")
    socket = await await_answer(start_bot, bot.url, bot.id, bot.token)
    if not isinstance(socket, socketio.AsyncClient):
        raise UnusableAnswer(f"It returned {socket!r}. It must return the connected socket.")
    try:
        return await _conversation_with_bot(lab, alice, bot)
    finally:
        await socket.disconnect()


async def _conversation_with_bot(lab: Lab, alice: User, bot: User) -> CheckResult:
    for text in ("one", "two", "three"):
        await alice.send_by_http(bot.id, text)
        wanted = {"senderId": bot.id, "receiverId": "alice", "text": f"Got it: {text}"}
        find = functools.partial(lab.mongo.messages.count_documents, wanted)
        if not await poll_until(find, REPLY_TIMEOUT_S):
            return not_yet(
                f'Alice sent "{text}", and no "Got it: {text}" came back within'
                f" {REPLY_TIMEOUT_S:g} s. Is the handler registered before connect?"
            )
    sent = [message["text"] for message in lab.find_messages(senderId=bot.id)]
    if len(sent) > 3:
        return not_yet(
            f"The bot sent {len(sent)} messages for three, among them {sent[-1][:60]!r}. Its own"
            " messages come back to it as newMessage, too."
        )
    return correct("Alice sent three messages, and the bot replied to each of them once.")


@check
async def sends(lab: Lab, send: Any) -> CheckResult:
    """Check an async function that sends over a socket, and raises an error with the detail."""
    alice, _ = await lab.user("alice"), await lab.user("bob")
    message = await await_answer(send, alice.socket, "bob", "Sent over my own socket")
    if not isinstance(message, dict) or "_id" not in message:
        return not_yet(f"It returned {message!r}. It must return the message of the ack.")
    if lab.find_messages(_id=message["_id"]) != [message]:
        return not_yet(f"MongoDB has no such message: {message}.")
    for body in REJECTED:
        ack = await alice.socket.call("sendMessage", body, timeout=REPLY_TIMEOUT_S)
        try:
            said = await await_answer(send, alice.socket, body["receiverId"], body["text"])
        except UnusableAnswer as error:
            if ack["error"]["detail"] not in str(error):
                return not_yet(f'The error must contain "{ack["error"]["detail"]}" {error}')
        else:
            return not_yet(
                f"For {body} the ack was {ack}, but your function raised no error. It returned"
                f" {said!r}."
            )
    return correct("It returned the saved message, and raised an error for each rejected send.")


@check
async def names_keys(lab: Lab, name_keys: Any) -> CheckResult:
    """Check a function that names the keys that a message leaves, for any sender and transport."""
    ways = (("alice", "bob", "http"), ("bob", "alice", "socket"), ("carol", "alice", "socket"))
    for sender, receiver, transport in ways:
        user, other = await lab.user(sender), await lab.user(receiver)
        trace = await user.send(other, "Which keys?", transport=transport)
        there, said = keys_of(lab, trace.id), call_answer(name_keys, trace.message)
        if not isinstance(said, list | tuple | set):
            return not_yet(f"Your function returned {said!r}. It must return a list of keys.")
        if set(said) != set(there):
            return not_yet(
                f"{sender} wrote to {receiver} by {transport}. Redis has it in {there}, but your"
                f" function returned {sorted(map(str, said))}."
            )
    return correct("For three messages by both transports it named exactly the keys in Redis.")


# --- claims ---------------------------------------------------------------------------------------


def claims(lab: Lab, both: BothTransports) -> ClaimResults:
    """Compare the document's claims about the transports with what the same text left behind."""
    seven = both.http.rows["boxes passed"] == ", ".join(STAGES)
    same = "the same boxes, document, reply, keys and events" if both.is_same else "they differ"

    def each(row: str) -> str:
        return f"by HTTP {both.http.rows[row]}; by socket {both.socket.rows[row]}"

    return lab.record_claims(
        ClaimResult("two_doors", same, holds_if(seven and both.is_same)),
        ClaimResult(
            "emitted", each("newMessage events"), holds_if(both.http.once and both.socket.once)
        ),
        ClaimResult(
            "real_time",
            each("keys in Redis"),
            holds_if(both.http.is_cached and both.socket.is_cached),
        ),
    )
