"""What the demo does: two people, one message through each door, and a look at everything until both have been told as cleaned.

The engines are looked into directly, so the service's word is never the only one. What is seen goes into a `Record`; `promises` judges.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
from bson import ObjectId
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import PyMongoError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError
from socketio.exceptions import SocketIOError

from chatlab.cache.cache import Keys
from chatlab.client import ChatClient, Json
from chatlab.demo.promises import holds
from chatlab.demo.record import Journey, Record, Sample
from chatlab.domain.ids import conversation_of
from chatlab.domain.message import from_document
from chatlab.errors import ChatlabError
from chatlab.settings import Settings

LOOK_EVERY = 0.025  # seconds between two looks at a key
SHOW_EVERY = 0.08  # seconds between two pictures
HEARD_WITHIN = 2.0  # seconds for an event to reach a socket
PATIENCE = 3  # seconds for the demo's own questions to the engines
LINGER = 0.6  # seconds that the last picture stays before the summary
GONE_WRONG = (ChatlabError, httpx.HTTPError, SocketIOError, PyMongoError, RedisError, OSError)  # an OSError may be a timeout
PEOPLE = ("ada", "bob", "cleo", "dan", "eve", "finn", "grace", "hugo", "ida", "juri")

Show = Callable[[Record], None]


class Place(NamedTuple):
    """Where it plays: the service, and the engines behind it. `space` names the database, and begins every key."""

    url: str
    mongo_url: str
    redis_url: str
    space: str

    @property
    def keys(self) -> Keys:
        return Keys(prefix_of(self.space))

    def forget(self) -> None:
        """Nothing of the demo stays."""
        with contextlib.suppress(PyMongoError), MongoClient[Json](self.mongo_url, timeoutMS=PATIENCE * 1000) as mongo:
            mongo.drop_database(self.space)
        with contextlib.suppress(RedisError), Redis.from_url(self.redis_url, socket_timeout=PATIENCE) as redis:
            for key in redis.scan_iter(f"{prefix_of(self.space)}*"):
                redis.delete(key)


def prefix_of(space: str) -> str:
    return f"{space}:"


class Eyes:
    """Looks into MongoDB and Redis, behind the back of the service."""

    def __init__(self, place: Place) -> None:
        self._keys = place.keys
        self._mongo = AsyncMongoClient[Json](place.mongo_url, timeoutMS=PATIENCE * 1000)
        self._messages = self._mongo[place.space]["messages"]
        self._redis = AsyncRedis.from_url(place.redis_url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)

    async def stored(self, message_id: str) -> Json | None:
        """The message as MongoDB has it, in the spelling of the contract."""
        document = await self._messages.find_one({"_id": ObjectId(message_id)})
        return json.loads(from_document(document).json) if document else None

    async def message(self, journey: Journey) -> Sample:
        """One look at `message:{_id}`."""
        key = self._keys.message(journey.message_id)
        pttl, value = await self._ask(("PTTL", key), ("GET", key))
        return Sample(journey.age(), pttl, journey.answer is not None and _json(value) == journey.answer.message)

    async def window(self, journey: Journey) -> Sample:
        """One look at `messages:{a}:{b}`; `equal`: the message is in it. Its first entry is no message, see window.lua."""
        key = self._keys.window(conversation_of(journey.sender, journey.receiver))
        pttl, values = await self._ask(("PTTL", key), ("LRANGE", key, 1, -1))
        return Sample(journey.age(), pttl, journey.answer is not None and journey.answer.message in map(_json, values))

    async def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute())

    async def close(self) -> None:
        await self._redis.aclose()
        await self._mongo.close()


def _json(value: bytes | None) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(value or b"null")
    return None


async def play(place: Place, settings: Settings, show: Show) -> Record:
    """Play it from the sign-ups to the last look, showing it as it goes."""
    async with _people(place) as people, _eyes(place) as eyes:
        one, other = people
        record = Record(settings, (Journey("http", one.id, other.id), Journey("socket", other.id, one.id)))
        await one.watch_flow(record.take)
        async with _shown(show, record):
            await _both(record, people, eyes)
            await _read_afterwards(record, one, other)
            await asyncio.sleep(LINGER)
    return record


@contextlib.asynccontextmanager
async def _people(place: Place) -> AsyncIterator[tuple[ChatClient, ChatClient]]:
    """Two people with random names, both at the socket door."""
    async with contextlib.AsyncExitStack() as stack:
        names = [f"{name}-{secrets.token_hex(2)}" for name in secrets.SystemRandom().sample(PEOPLE, 2)]
        one, other = await asyncio.gather(*(ChatClient.sign_up(place.url, name, secrets.token_urlsafe(16)) for name in names))
        for person in (one, other):
            stack.push_async_callback(person.close)
            await person.connect()
        yield one, other


@contextlib.asynccontextmanager
async def _eyes(place: Place) -> AsyncIterator[Eyes]:
    eyes = Eyes(place)
    try:
        yield eyes
    finally:
        await eyes.close()


@contextlib.asynccontextmanager
async def _shown(show: Show, record: Record) -> AsyncIterator[None]:
    """While this runs, `show` is called many times a second, and once more at the end."""

    async def keep_showing() -> None:
        while True:
            show(record)
            await asyncio.sleep(SHOW_EVERY)

    showing = asyncio.create_task(keep_showing())
    try:
        yield
    finally:
        showing.cancel()
    show(record)


async def _both(record: Record, people: tuple[ChatClient, ChatClient], eyes: Eyes) -> None:
    """By HTTP, and a fifth of a life (a second at most) later by Socket.IO, the other way; then both to their ends."""
    async with asyncio.TaskGroup() as group:
        for journey in record.journeys:
            group.create_task(_travel(record, journey, people, eyes))
            await asyncio.sleep(min(1.0, record.moments.end / 5))  # so that the two lives can be told apart


async def _travel(record: Record, journey: Journey, people: tuple[ChatClient, ChatClient], eyes: Eyes) -> None:
    try:
        await _send(record, journey, people)
        await _look_around(journey, eyes)
        await _hear(record, journey, people)
        await _read(record, journey, people)
        await _outlive(record, journey, eyes)
    except GONE_WRONG as error:
        journey.trouble = str(error) or type(error).__name__
        record.note(journey.name, f"stopped: {journey.trouble}")


async def _send(record: Record, journey: Journey, people: tuple[ChatClient, ChatClient]) -> None:
    sender = people[0] if people[0].id == journey.sender else people[1]
    send = sender.send_by_http if journey.door == "http" else sender.send_by_socket
    record.note(journey.name, f"{journey.sender} sends to {journey.receiver}")
    journey.answer = await send(journey.receiver, f"Hello by {journey.name}")
    journey.answered_at = time.time() * 1000
    record.note(journey.name, f"{journey.answer.status} after {journey.answer.took_ms:.1f} ms, message {journey.message_id}")


async def _look_around(journey: Journey, eyes: Eyes) -> None:
    """Right after the answer, before anything else: the document, then the two keys."""
    journey.stored = await eyes.stored(journey.message_id)
    journey.samples.append(await eyes.message(journey))
    journey.window = await eyes.window(journey)


async def _hear(record: Record, journey: Journey, people: tuple[ChatClient, ChatClient]) -> None:
    """Wait until both have heard of it. The list goes on growing, should somebody hear it twice."""

    def heard_by(person: ChatClient) -> int:
        return sum(heard.event == "newMessage" and heard.payload["_id"] == journey.message_id for heard in person.received)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARD_WITHIN):
            while not all(map(heard_by, people)):  # noqa: ASYNC110 - an event of the socket library is no asyncio.Event
                await asyncio.sleep(0.005)
    heard = [person.id for person in people if heard_by(person)]
    record.note(journey.name, f"newMessage heard by {' and '.join(heard) or 'nobody'}")


async def _read(record: Record, journey: Journey, people: tuple[ChatClient, ChatClient]) -> None:
    """The receiver reads at once."""
    receiver = people[0] if people[0].id == journey.receiver else people[1]
    journey.reading = await receiver.read(journey.sender)
    journey.complete = holds(journey.reading.messages, _sent(record))
    record.note("GET", f"after {journey.name}: X-Cache {journey.reading.cache}, {journey.reading.took_ms:.1f} ms")


def _sent(record: Record) -> list[Json]:
    return [journey.answer.message for journey in record.journeys if journey.answer]


async def _outlive(record: Record, journey: Journey, eyes: Eyes) -> None:
    """Look again and again until the worker has told its end, or should have."""
    moments, task = record.moments, asyncio.current_task()
    assert task
    while journey.age() < moments.limit and not (journey.cleaned and journey.gone):
        if task.cancelling():  # Ctrl-C came while a library was waiting, and it kept that to itself (asyncio.wait_for before Python 3.12)
            raise asyncio.CancelledError
        before = journey.samples[-1]
        journey.samples.append(sample := await eyes.message(journey))
        if before.age < moments.pause <= sample.age:
            record.note(journey.name, f"life: at {sample.age:.2f} s {_life(sample)}")
        if before.pttl > 0 >= sample.pttl:
            record.note(journey.name, f"life: gone from Redis at {sample.age:.2f} s")
        await asyncio.sleep(LOOK_EVERY)


def _life(sample: Sample) -> str:
    return f"still cached, {sample.pttl} ms left" if sample.pttl > 0 else "not in Redis"


async def _read_afterwards(record: Record, one: ChatClient, other: ChatClient) -> None:
    """Both lives are over; the conversation is still whole."""
    for journey in record.journeys:
        journey.heard = {
            person.id: [heard for heard in person.received if heard.event == "newMessage" and heard.payload["_id"] == journey.message_id]
            for person in (one, other)
        }
    with contextlib.suppress(*GONE_WRONG):
        record.afterwards = reading = await one.read(other.id)
        record.complete_afterwards = len(_sent(record)) == 2 and holds(reading.messages, _sent(record))
        record.note("GET", f"after the end: X-Cache {reading.cache}, {reading.took_ms:.1f} ms, {len(reading.messages)} messages")
