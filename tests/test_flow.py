"""The diagram as it really happens: the order of the boxes, and the life of a cached message from 0 to 6 s."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from live import User
from patient import TTL_S
from raw_socket import raw_socket, unauthenticated
from shared_service import SharedService, UserMaker
from waiting import LIMIT_S, wait_until

from chatlab.domain.ids import conversation_of

Events = list[dict[str, Any]]
SECRET = "walrus-in-the-attic"

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


@pytest.fixture
async def flow(new_user: UserMaker) -> AsyncIterator[Events]:
    """The events of `/flow` from now on."""
    async with watching_flow(new_user()) as events:
        yield events


@contextlib.asynccontextmanager
async def watching_flow(person: User) -> AsyncIterator[Events]:
    """Collect the events of `/flow` at this person's service."""
    events: Events = []
    client = socketio.AsyncClient(reconnection=False)
    client.on("flow", events.append, namespace="/flow")
    auth = {"token": person.token}
    await client.connect(person.service.url, auth=auth, namespaces=["/flow"], transports=["websocket"], wait_timeout=int(LIMIT_S))
    yield events
    await client.disconnect()


async def all_of(events: Events, *stages: str) -> None:
    """Wait until each of these stages has been reported."""
    await wait_until(lambda: {event["stage"] for event in events}, f"the stages {stages}", is_reached=lambda seen: seen >= set(stages))


async def way_of(events: Events, door: str) -> list[str]:
    """The boxes of the one request that came by this door, in order, once its last one has been told."""
    await wait_until(lambda: any(event["door"] == door and event["stage"] == "respond" for event in events), f"the response to {door}")
    mine = [event for event in events if event["door"] == door]
    assert len({event["trace"] for event in mine}) == 1
    assert [event["at"] for event in mine] == sorted(event["at"] for event in mine)
    stages = [event["stage"] for event in mine]
    events[:] = [event for event in events if event["door"] != door]
    return stages


@pytest.mark.parametrize("door", ["http", "socket"])
async def test_a_send_passes_the_boxes_of_the_diagram(shared: SharedService, new_user: UserMaker, flow: Events, door: str) -> None:
    """Request, create, save, cache the message, cache the conversation, emit, respond: in this order, by either door."""
    ann, bob = new_user(), new_user()
    sent = await ann.send(bob, SECRET, door=door)
    await all_of(flow, "respond", "cached")
    everything = flow[:]
    assert await way_of(flow, door) == ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
    keys = {event["stage"]: event.get("key") for event in everything if event.get("messageId") == sent["_id"]}
    assert keys["cache_message"] == f"{shared.prefix}message:{sent['_id']}"
    assert keys["cache_conversation"] == f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}"


async def test_a_read_passes_the_boxes_it_needs(shared: SharedService, new_user: UserMaker, flow: Events) -> None:
    """A hit never passes the store, a miss asks the cache first, a bypass the store alone."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, SECRET)
    await way_of(flow, "http")
    await ann.read(bob)
    assert await way_of(flow, "http") == ["request", "read_cache", "respond"]
    await ann.read(bob, fresh=True)
    assert await way_of(flow, "http") == ["request", "read_store", "respond"]
    shared.keys.delete(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}")
    await ann.read(bob)
    assert await way_of(flow, "http") == ["request", "read_cache", "read_store", "respond"]


async def test_what_is_refused_goes_no_further(new_user: UserMaker, flow: Events) -> None:
    """A send that is wrong passes no box, one to nobody ends before anything is created; a repeat caches no second message."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, "")
    await ann.send("nobody-at-all", SECRET)
    await ann.send(bob, SECRET, clientId="c")
    await ann.send(bob, SECRET, clientId="c")
    await wait_until(lambda: [event["stage"] for event in flow], "two responses", is_reached=lambda stages: stages.count("respond") == 2)
    ways: dict[str, list[str]] = {}
    for event in flow:
        if event["door"] == "http":
            ways.setdefault(event["trace"], []).append(event["stage"])
    nobody, first, again = ways.values()
    assert nobody == ["request"]
    assert first == ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
    assert "emit" not in again
    assert "cache_message" not in again


async def test_events_say_what_and_when_but_never_a_text(shared: SharedService, new_user: UserMaker, flow: Events) -> None:
    """Each event has trace, door, stage, at and tookMs, and none of what people write or are called by their devices."""
    ann, bob = new_user(), new_user()
    began = time.time() * 1000
    sent = await ann.send(bob, SECRET, door="socket", clientId=f"id-{SECRET}")
    await ann.ask("editMessage", {"messageId": sent["_id"], "text": f"more {SECRET}"})
    await ann.read(bob)
    await all_of(flow, "respond", "sweep", "cached", "read_cache")
    for event in flow:
        assert event.keys() >= {"trace", "door", "stage", "at", "tookMs"}
        assert event["door"] in ("http", "socket", "cache", "worker")
        assert began - 1000 < event["at"] < time.time() * 1000 + 1000
        assert event["tookMs"] >= 0
    assert SECRET not in json.dumps(flow)
    assert SECRET not in shared.service.log.read_text()
    assert sent["_id"] in shared.service.log.read_text()


@pytest.mark.parametrize("auth", ["", "{}", '{"token":"wrong"}', '{"token":1}'])
async def test_the_flow_is_not_for_strangers(shared: SharedService, auth: str) -> None:
    """`/flow` needs a token like everything else."""
    async with unauthenticated(shared.service) as stranger:
        await stranger.send(f"40/flow,{auth}")
        assert '"unauthenticated"' in (await stranger.receive_until("44/flow,") or "")


async def test_the_flow_ends_with_the_session(new_user: UserMaker) -> None:
    """Who logs out watches no longer."""
    ann = new_user()
    async with raw_socket(ann, "/flow,") as watching:
        await watching.receive_until("42/flow,")
        assert (await ann.http.post("/api/auth/logout")).status_code == 204
        assert await watching.receive_until("never") is None
        assert watching.is_closed


async def test_there_is_no_flow_unless_it_is_asked_for(shared: SharedService, new_user: UserMaker, tmp_path: Any) -> None:
    """Without CHATLAB_FLOW the namespace is refused, token or not, nothing is logged, and everything else works."""
    with shared.another_process(tmp_path / "log", FLOW="0") as other:
        ann = new_user(at=other.service)
        async with raw_socket(ann) as raw:
            await raw.send(f"40/flow,{json.dumps({'token': ann.token})}")
            assert (await raw.receive_until("44/flow,") or "").startswith("44/flow,")
            assert (await raw.ask("sendMessage", {"receiverId": ann.id, "text": SECRET}))["ok"]
            assert await raw.is_alive()
            assert not [frame for frame in raw.frames if frame.startswith("42/flow")]
        assert "chatlab.flow" not in other.service.log.read_text()


# --- the life of a key ---------------------------------------------------------------------------------------------------------


async def test_a_read_keeps_the_expiry_and_an_edit_starts_a_new_ttl(shared: SharedService, new_user: UserMaker) -> None:
    """A message cache entry expires one TTL after the send. Reads do not move that moment; an edit moves it for its message alone."""
    ann, bob = new_user(), new_user()
    began = redis_time_ms(shared)
    sent = await ann.http.post("/api/messages/send", json={"receiverId": bob.id, "text": "a"})
    changing = await ann.send(bob, "b")
    key, other = (f"{shared.prefix}message:{message_id}" for message_id in (sent.json()["_id"], changing["_id"]))
    window = f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}"
    assert shared.keys.get(key) == sent.content
    before = {name: shared.keys.pexpiretime(name) for name in (key, other, window)}
    assert all(expiry - TTL_S * 1000 <= redis_time_ms(shared) for expiry in before.values())
    assert began <= before[key] - TTL_S * 1000 <= before[other] - TTL_S * 1000

    assert (await bob.read(ann)).headers["x-cache"] == "hit"
    assert {name: shared.keys.pexpiretime(name) for name in before} == before

    changed = redis_time_ms(shared)
    edited = await ann.http.patch(f"/api/messages/{changing['_id']}", json={"text": "c"})
    assert shared.keys.get(other) == edited.content
    after = {name: shared.keys.pexpiretime(name) for name in before}
    assert after[other] - TTL_S * 1000 >= changed
    assert after | {other: 0} == before | {other: 0}


def redis_time_ms(shared: SharedService) -> int:
    """Return the clock of Redis."""
    seconds, microseconds = shared.keys.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_an_expired_message_is_reported_once_and_read_from_mongodb(
    shared: SharedService, new_user: UserMaker, tmp_path: Path
) -> None:
    """After its TTL a message is gone from Redis, the flow reports that it was cached, expired and cleaned, and reads still find it."""
    with shared.another_process(tmp_path / "log", CACHE_TTL="1") as other:
        ann, bob = new_user(at=other.service), new_user(at=other.service)
        async with watching_flow(ann) as flow:
            sent = await ann.send(bob, "a")
            key = f"{other.prefix}message:{sent['_id']}"
            stages = await wait_until(
                lambda: [event["stage"] for event in flow if event.get("key") == key and event["door"] == "cache"],
                f"{key} to be reported as cleaned",
                is_reached=lambda seen: "cleaned" in seen,
            )
            swept = len([event for event in flow if event["stage"] == "sweep"])
            await wait_until(lambda: len([event for event in flow if event["stage"] == "sweep"]) > swept, "one more sweep")
        assert stages == ["cached", "expired", "cleaned"]
        assert [event["stage"] for event in flow if event.get("key") == key].count("cleaned") == 1
        assert other.keys.pttl(key) == -2
        assert (await bob.read(ann)).json() == [sent]


async def test_every_key_has_an_expiry_at_every_moment(shared: SharedService, new_user: UserMaker) -> None:
    """While users send, edit, react, delete and read through both transports, no key is without an expiry or outlives its TTL."""
    ann, bob = new_user(), new_user()
    done = asyncio.Event()
    looks = 0

    async def look() -> None:
        nonlocal looks
        while not done.is_set():
            keys = list(shared.keys.scan_iter(f"{shared.prefix}*", count=1000))
            pipeline = shared.keys.pipeline(transaction=False)
            for key in keys:
                pipeline.pttl(key)
            lives = dict(zip(keys, pipeline.execute(), strict=True))
            assert not [key for key, life in lives.items() if life == -1 or life > TTL_S * 1000]
            looks += len(lives)
            await asyncio.sleep(0)  # let the others work

    looking = asyncio.create_task(look())
    while looks <= 100 and not looking.done():
        await asyncio.gather(live_a_little(ann, bob, "http"), live_a_little(bob, ann, "socket"))
    done.set()
    await looking


async def live_a_little(someone: User, other: User, door: str) -> None:
    """Fifteen times all that can be done to a message."""
    for number in range(15):
        sent = await someone.send(other, str(number), door=door)
        url = f"/api/messages/{sent['_id']}"
        await someone.http.patch(url, json={"text": "edited"})
        await other.ask("addReaction", {"messageId": sent["_id"], "emoji": "\N{THUMBS UP SIGN}"})
        await other.read(someone)
        await someone.http.delete(url)
