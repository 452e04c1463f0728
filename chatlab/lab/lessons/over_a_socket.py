"""Notebook 02: a send over a socket, as frames; who hears of it, and how often; and that both doors leave the same behind."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from chatlab import client
from chatlab.client import Json, ReceivedEvent
from chatlab.lab.checks import CheckResult, UnusableAnswer, call_answer, check, correct, not_yet
from chatlab.lab.claims import ClaimResult, ClaimResults, holds_if
from chatlab.lab.diagram import STAGES
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.session_stores import value_of
from chatlab.lab.tables import Rows, table_html
from chatlab.lab.trace import Trace
from chatlab.lab.user import User

PATIENCE = 10  # seconds for a frame
DOORS = ("http", "socket")
OF_EACH = ("_id", "seq", "createdAt")  # what two messages never have in common
PING, PONG, CONNECT, EVENT = "2", "3", "40", "42"  # how frames begin, see Engine.IO and Socket.IO


# --- frames --------------------------------------------------------------------------------------------------------------------


class Talk(NamedTuple):
    """Frames of one socket from an event to its ack, in their order: `> ` to the service, `< ` from it."""

    frames: list[str]

    @property
    def first(self) -> str:
        """What came back first: `newMessage` or `the ack`."""
        return "newMessage" if '["newMessage"' in self.frames[1] else "the ack"

    def __repr__(self) -> str:
        return "\n".join(self.frames)


async def talk(person: User, event: str, payload: Json) -> Talk:
    """Connect as this person, say one event, and listen until it is acknowledged. Who is online, and when, is left out."""
    asked = f"{EVENT}1{json.dumps([event, payload])}"
    url = f"ws://{urlsplit(person.url).netloc}/socket.io/?EIO=4&transport=websocket"
    async with asyncio.timeout(PATIENCE), connect(url, proxy=None) as socket:
        await socket.recv()
        await socket.send(CONNECT + json.dumps({"token": person.token}))
        await anext(frame async for frame in _frames(socket) if frame.startswith(CONNECT))
        await socket.send(asked)
        frames = [f"> {asked}"]
        async for frame in _frames(socket):
            if '["onlineUsers"' not in frame and '["presence"' not in frame:
                frames.append(f"< {frame}")
            if frame.startswith("431"):
                break
    return Talk(frames)


async def _frames(socket: ClientConnection) -> AsyncIterator[str]:
    """All that comes but pings, which are answered."""
    while True:
        frame = str(await socket.recv())
        if frame == PING:
            await socket.send(PONG)
        else:
            yield frame


# --- who hears -------------------------------------------------------------------------------------------------------------------


async def settled(*people: client.ChatClient) -> None:
    """Wait until all that has been emitted to these sockets has come: what is asked now is answered behind it."""
    await asyncio.gather(
        *(person.socket.call("is all here?", timeout=PATIENCE) for person in people)
    )


def heard_of(person: client.ChatClient, message_id: str) -> list[ReceivedEvent]:
    """The `newMessage` events with this message that came to this person."""
    return [
        heard
        for heard in person.received
        if heard.event == "newMessage" and heard.payload["_id"] == message_id
    ]


async def arrivals(trace: Trace, *people: User) -> Rows:
    """When, in milliseconds since the request came in, and how often each of these people heard of this message.

    Their sockets were open when it was sent.
    """
    await settled(*people)
    told = [(person.id, heard_of(person, trace.id)) for person in people]
    if len(trace.events) < len(STAGES) or not all(heard for _, heard in told):
        raise PremiseGone(
            "The sockets were not all open when this message was sent.",
            "run the cell that opens them and sends the message again",
        )
    began = trace.events[0]["at"] - trace.events[0]["tookMs"]
    at = {event["stage"]: event["at"] for event in trace.events}
    rows = [
        (name, f"newMessage, {_times(len(heard))}", _ms(heard[0].at - began) if heard else "")
        for name, heard in told
    ]
    emits, answers = (
        at["cache_conversation"],
        at["respond"],
    )  # the box before has ended; this one has
    ends = [
        ("the service", "emits", _ms(emits - began)),
        *rows,
        ("the service", "answers", _ms(answers - began)),
    ]
    return Rows(("who", "what", "since the request"), ends)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _ms(value: float) -> str:
    return f"{value:.2f} ms"


# --- both doors ------------------------------------------------------------------------------------------------------------------


WHAT = ("boxes passed", "the document in MongoDB", "the answer", "keys in Redis", "newMessage")


class Left(NamedTuple):
    """What a send has left behind, in words that do not name the message. `cached`: each key had an expiry. `once`: both heard once."""

    boxes: str
    document: str
    answer: str
    keys: str
    events: str
    cached: bool
    once: bool

    @property
    def words(self) -> tuple[str, ...]:
        return self.boxes, self.document, self.answer, self.keys, self.events


class Doors(NamedTuple):
    """What the same words left behind by each door."""

    http: Left
    socket: Left

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        return list(zip(WHAT, self.http.words, self.socket.words, strict=True))

    def __repr__(self) -> str:
        return "\n".join(
            f"{what:<24} {one}" if one == other else f"{what:<24} {one} | {other}"
            for what, one, other in self.rows
        )

    def _repr_html_(self) -> str:
        return table_html(
            ("", "HTTP", "socket"),
            [(what, one, "same" if one == other else other) for what, one, other in self.rows],
        )


async def both_doors(lab: Lab, sender: User, receiver: User, text: str = "The same words") -> Doors:
    """Send the same words by each door, and look what each has left behind."""
    return Doors(*[await _left_by(door, lab, sender, receiver, text) for door in DOORS])


async def _left_by(door: str, lab: Lab, sender: User, receiver: User, text: str) -> Left:
    trace = await sender.send(receiver, text, transport=door)
    lives = {key: lab.redis.pttl(key) for key in keys_of(lab, trace.id)}
    await settled(sender, receiver)
    heard = {person.id: heard_of(person, trace.id) for person in (sender, receiver)}
    answered = all(event.payload == trace.message for events in heard.values() for event in events)
    document = lab.find_messages(_id=trace.id)
    return Left(
        boxes=", ".join(trace.stages),
        document=", ".join(
            f"{name} {json.dumps(document[0][name])}" for name in document[0] if name not in OF_EACH
        ),
        answer="the document" if document == [trace.message] else "not the document",
        keys=", ".join(key.replace(trace.id, "{_id}") for key in lives),
        events=", ".join(f"{name} {_times(len(events))}" for name, events in heard.items())
        + ("" if answered else ", not as answered"),
        cached=len(lives) == 2 and all(life > 0 for life in lives.values()),
        once=all(len(events) == 1 for events in heard.values()),
    )


def keys_of(lab: Lab, message_id: str) -> list[str]:
    """The keys in Redis that hold this message now."""
    keys = sorted(lab.redis.scan_iter("message*"))
    return [key for key in keys if message_id in str(value_of(lab.redis, key))]


# --- exercises -------------------------------------------------------------------------------------------------------------------


@check
async def receives(lab: Lab, answer: Any) -> CheckResult:
    """Does this function pick the one message from Bob to Alice out of all that her socket hears?"""
    alice, bob, carol = [await lab.user(name) for name in ("alice", "bob", "carol")]
    await settled(alice)
    heard = [told for told in alice.received if told.event == "onlineUsers"][:1]
    before = len(alice.received)
    wanted = await _traffic(alice, bob, carol)
    await settled(alice)
    presence = ("onlineUsers", "presence")
    heard += [told for told in alice.received[before:] if told.event not in presence]
    picked = [told for told in heard if _picked(answer, told)]
    if [(told.event, told.payload["_id"]) for told in picked if isinstance(told.payload, dict)] == [
        ("newMessage", wanted)
    ]:
        return correct(
            f"Of {len(heard)} events that her socket heard, your function picks Bob's new message to her, and no other."
        )
    names = "; ".join(_described(told) for told in picked) or "none"
    return not_yet(
        f"Her socket heard {len(heard)} events. Your function picks {len(picked)}: {names}. One is wanted: a new message, from Bob."
    )


async def _traffic(alice: User, bob: User, carol: User) -> str:
    """What goes on around Alice; the _id of the one message from Bob."""
    await alice.send_by_http("bob", "Are you there?")
    await carol.send_by_http("alice", "Alice, have you seen Bob?")
    message = (await bob.send_by_http("alice", "Here I am!")).message
    await alice.send_by_http("carol", "He is here")
    await bob.http.patch(f"/api/messages/{message['_id']}", json={"text": "Here I am, at last!"})
    return str(message["_id"])


def _picked(answer: Any, told: ReceivedEvent) -> bool:
    try:
        return bool(call_answer(answer, told.event, told.payload))
    except UnusableAnswer as wrong:
        if not callable(answer):
            raise
        kind = "a list of names" if isinstance(told.payload, list) else "a message"
        raise UnusableAnswer(
            f"{wrong} It was given the event {told.event}, whose payload is {kind}."
        ) from None


def _described(told: ReceivedEvent) -> str:
    return (
        f"{told.event} from {told.payload['senderId']}"
        if isinstance(told.payload, dict)
        else told.event
    )


@check
async def names_keys(lab: Lab, answer: Any) -> CheckResult:
    """Does this function name the keys that a message leaves, whoever sends it, by whichever door?"""
    ways = (("alice", "bob", "http"), ("bob", "alice", "socket"), ("carol", "alice", "socket"))
    for sender, receiver, door in ways:
        trace = await (await lab.user(sender)).send(
            await lab.user(receiver), "Which keys?", transport=door
        )
        there, said = keys_of(lab, trace.id), call_answer(answer, trace.message)
        if not isinstance(said, list | tuple | set) or not all(
            isinstance(key, str) for key in said
        ):
            return not_yet(
                f"Your function says {said!r}. What is wanted is a list of keys, each of them text."
            )
        if set(said) != set(there):
            return not_yet(
                _other_keys(
                    f"A message from {sender} to {receiver}, by {door}",
                    set(there),
                    set(said),
                    trace.id,
                )
            )
    return correct(
        f"{len(ways)} messages, {len(set(DOORS))} doors: each time exactly these keys held the message. No key tells the door."
    )


def _other_keys(what: str, there: set[str], said: set[str], message_id: str) -> str:
    missing, wrong = [
        ", ".join(sorted(keys)).replace(message_id, "{_id}")
        for keys in (there - said, said - there)
    ]
    names = (
        "The two names have one order, whoever sends."
        if wrong
        else "One kind of key is for the message, one for the conversation."
    )
    return (
        f"{what}: {f'{missing} is there and not named' if missing else ''}{'; ' if missing and wrong else ''}"
        + (f"{wrong} is named and not there. {names}" if wrong else f". {names}")
    )


@check
async def counts(lab: Lab, answer: Any) -> CheckResult:
    """How many events does one send make? Opens the tabs, sends, and counts."""
    if not isinstance(answer, int) or isinstance(answer, bool):
        return not_yet("The answer is a whole number of events.")
    alice, bob, carol = [await lab.user(name) for name in ("alice", "bob", "carol")]
    async with _tab(alice) as second:
        trace = await alice.send(bob, "How many hear this?", transport="socket")
        tabs = {"the tab that sent": alice, "Alice's other tab": second, "Bob": bob, "Carol": carol}
        await settled(*tabs.values())
        found = {name: len(heard_of(tab, trace.id)) for name, tab in tabs.items()}
    told = ", ".join(f"{name} {count}" for name, count in found.items())
    if answer == sum(found.values()):
        return correct(
            f"Counted: {told}. Each open socket of both people, once each, the one that sent too."
        )
    return not_yet(
        f"It is {'fewer' if answer > sum(found.values()) else 'more'} than {answer}. {_whom(answer)}"
    )


def _whom(answer: int) -> str:
    if answer <= 1:
        return "In the frames above, what came back to Alice herself?"
    return "An event goes to sockets, not to people; and to those of the two people in the conversation, nobody else's."


@contextlib.asynccontextmanager
async def _tab(person: User) -> AsyncIterator[client.ChatClient]:
    """One more tab of this person, with a socket of its own."""
    tab = client.ChatClient(person.url, person.user, person.token)
    await tab.connect()
    try:
        yield tab
    finally:
        await tab.close()


# --- what holds ------------------------------------------------------------------------------------------------------------------


def claims(lab: Lab, doors: Doors) -> ClaimResults:
    """What the document says of the two doors, held against the same words sent by each."""
    seven = doors.http.boxes == ", ".join(STAGES)
    same = all(one == other for _, one, other in doors.rows)
    told = "the same boxes, document, answer, keys and events" if same else "they differ, see above"
    return lab.record_claims(
        ClaimResult("two_doors", told, holds_if(seven and same)),
        ClaimResult(
            "emitted",
            f"by HTTP {doors.http.events}; by socket {doors.socket.events}",
            holds_if(doors.http.once and doors.socket.once),
        ),
        ClaimResult(
            "real_time",
            f"by HTTP {doors.http.keys}; by socket {doors.socket.keys}",
            holds_if(doors.http.cached and doors.socket.cached),
        ),
    )
