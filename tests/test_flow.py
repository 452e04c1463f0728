"""The diagram as it really happens: the order of the boxes, and the life of a cached message from 0 to 6 s."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import socketio
from house import House, Newcomer
from live import Person, eventually
from raw_socket import raw_socket, unauthenticated

from chatlab.identity import conversation_of

Events = list[dict[str, Any]]
SECRET = "walrus-in-the-attic"


@pytest.fixture
async def flow(house: House, newcomer: Newcomer) -> AsyncIterator[Events]:
    """What `/flow` tells from now on."""
    events: Events = []
    client = socketio.AsyncClient(reconnection=False)
    client.on("flow", events.append, namespace="/flow")
    auth = {"token": newcomer().token}
    await client.connect(house.service.url, auth=auth, namespaces=["/flow"], transports=["websocket"], wait_timeout=10)
    yield events
    await client.disconnect()


async def way_of(events: Events, door: str) -> list[str]:
    """The boxes of the one request that came by this door, in order, once its last one has been told."""
    await eventually(lambda: any(event["door"] == door and event["stage"] == "respond" for event in events))
    mine = [event for event in events if event["door"] == door]
    assert len({event["trace"] for event in mine}) == 1
    assert [event["at"] for event in mine] == sorted(event["at"] for event in mine)
    stages = [event["stage"] for event in mine]
    events[:] = [event for event in events if event["door"] != door]
    return stages


@pytest.mark.parametrize("door", ["http", "socket"])
async def test_a_send_passes_the_boxes_of_the_diagram(house: House, newcomer: Newcomer, flow: Events, door: str) -> None:
    """Request, create, save, cache the message, cache the conversation, emit, respond: in this order, by either door."""
    ann, bob = newcomer(), newcomer()
    sent = await ann.send(bob, SECRET, door=door)
    await eventually(lambda: {event["stage"] for event in flow} >= {"respond", "cached"})
    everything = flow[:]
    assert await way_of(flow, door) == ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
    keys = {event["stage"]: event.get("key") for event in everything if event.get("messageId") == sent["_id"]}
    assert keys["cache_message"] == f"{house.prefix}message:{sent['_id']}"
    assert keys["cache_conversation"] == f"{house.prefix}messages:{conversation_of(ann.id, bob.id)}"


async def test_a_read_passes_the_boxes_it_needs(house: House, newcomer: Newcomer, flow: Events) -> None:
    """A hit never passes the store, a miss asks the cache first, a bypass the store alone."""
    ann, bob = newcomer(), newcomer()
    await ann.send(bob, SECRET)
    await way_of(flow, "http")
    await ann.read(bob)
    assert await way_of(flow, "http") == ["request", "read_cache", "respond"]
    await ann.read(bob, fresh=True)
    assert await way_of(flow, "http") == ["request", "read_store", "respond"]
    house.keys.delete(f"{house.prefix}messages:{conversation_of(ann.id, bob.id)}")
    await ann.read(bob)
    assert await way_of(flow, "http") == ["request", "read_cache", "read_store", "respond"]


async def test_what_is_refused_goes_no_further(newcomer: Newcomer, flow: Events) -> None:
    """A send that is wrong passes no box, one to nobody ends before anything is created; a repeat caches no second message."""
    ann, bob = newcomer(), newcomer()
    await ann.send(bob, "")
    await ann.send("nobody-at-all", SECRET)
    await ann.send(bob, SECRET, clientId="c")
    await ann.send(bob, SECRET, clientId="c")
    await eventually(lambda: [event["stage"] for event in flow].count("respond") == 2)
    ways: dict[str, list[str]] = {}
    for event in flow:
        if event["door"] == "http":
            ways.setdefault(event["trace"], []).append(event["stage"])
    nobody, first, again = ways.values()
    assert nobody == ["request"]
    assert first == ["request", "create", "save", "cache_message", "cache_conversation", "emit", "respond"]
    assert "emit" not in again
    assert "cache_message" not in again


async def test_events_say_what_and_when_but_never_a_text(house: House, newcomer: Newcomer, flow: Events) -> None:
    """Each event has trace, door, stage, at and tookMs, and none of what people write or are called by their devices."""
    ann, bob = newcomer(), newcomer()
    began = time.time() * 1000
    sent = await ann.send(bob, SECRET, door="socket", clientId=f"id-{SECRET}")
    await ann.ask("editMessage", {"messageId": sent["_id"], "text": f"more {SECRET}"})
    await ann.read(bob)
    await eventually(lambda: {event["stage"] for event in flow} >= {"respond", "sweep", "cached", "read_cache"})
    for event in flow:
        assert event.keys() >= {"trace", "door", "stage", "at", "tookMs"}
        assert event["door"] in ("http", "socket", "cache", "worker")
        assert began - 1000 < event["at"] < time.time() * 1000 + 1000
        assert event["tookMs"] >= 0
    assert SECRET not in json.dumps(flow)
    assert SECRET not in house.service.log.read_text()
    assert sent["_id"] in house.service.log.read_text()


@pytest.mark.parametrize("auth", ["", "{}", '{"token":"wrong"}', '{"token":1}'])
async def test_the_flow_is_not_for_strangers(house: House, auth: str) -> None:
    """`/flow` needs a token like everything else."""
    async with unauthenticated(house.service) as stranger:
        await stranger.say(f"40/flow,{auth}")
        assert '"unauthenticated"' in (await stranger.until("44/flow,") or "")


async def test_the_flow_ends_with_the_session(newcomer: Newcomer) -> None:
    """Who logs out watches no longer."""
    ann = newcomer()
    async with raw_socket(ann, "/flow,") as watching:
        await watching.until("42/flow,")
        assert (await ann.http.post("/api/auth/logout")).status_code == 204
        async with asyncio.timeout(3):
            assert await watching.until("never") is None
        assert watching.gone


async def test_there_is_no_flow_unless_it_is_asked_for(house: House, newcomer: Newcomer, tmp_path: Any) -> None:
    """Without CHATLAB_FLOW the namespace is refused, token or not, nothing is logged, and everything else works."""
    with house.annexe(tmp_path / "log", FLOW="0") as annexe:
        ann = newcomer(at=annexe.service)
        async with raw_socket(ann) as raw:
            await raw.say(f"40/flow,{json.dumps({'token': ann.token})}")
            assert (await raw.until("44/flow,") or "").startswith("44/flow,")
            assert (await raw.ask("sendMessage", {"receiverId": ann.id, "text": SECRET}))["ok"]
            assert await raw.alive()
            assert not [frame for frame in raw.heard if frame.startswith("42/flow")]
        assert "chatlab.flow" not in annexe.service.log.read_text()


# --- the life of a key ---------------------------------------------------------------------------------------------------------


async def test_a_life_from_0_to_6_seconds(house: House, newcomer: Newcomer, flow: Events) -> None:
    """A message lives 5 s from its send: reads do not lengthen it, an edit starts it anew; then it is gone, and told so once."""
    ann, bob = newcomer(), newcomer()
    sent = await ann.http.post("/api/messages/send", json={"receiverId": bob.id, "text": "a"})
    changing = await ann.send(bob, "b")
    began = time.monotonic()
    key, other = (f"{house.prefix}message:{message_id}" for message_id in (sent.json()["_id"], changing["_id"]))
    window = f"{house.prefix}messages:{conversation_of(ann.id, bob.id)}"
    assert house.keys.get(key) == sent.content
    assert lives(house, key, window) == pytest.approx([5, 5], abs=0.4)

    await until(began + 2)
    assert lives(house, key, window) == pytest.approx([3, 3], abs=0.4)
    assert (await bob.read(ann)).headers["x-cache"] == "hit"
    edited = await ann.http.patch(f"/api/messages/{changing['_id']}", json={"text": "c"})
    assert lives(house, key, other, window) == pytest.approx([3, 5, 3], abs=0.4)
    assert house.keys.get(other) == edited.content

    await until(began + 5)
    assert house.keys.pttl(key) == -2
    await until(began + 6)
    assert house.keys.get(key) is None
    assert lives(house, other) == pytest.approx([1], abs=0.4)
    assert (await bob.read(ann)).json() == [sent.json(), edited.json()]
    await eventually(lambda: any(event["stage"] == "cleaned" and event["key"] == key for event in flow), within=2)
    assert [event["stage"] for event in flow if event.get("key") == key and event["door"] == "cache"] == ["cached", "expired", "cleaned"]


def lives(house: House, *keys: str) -> list[float]:
    """The seconds these keys still have; never more than 5."""
    found = [float(house.keys.pttl(key)) for key in keys]
    assert max(found) <= 5000
    return [life / 1000 for life in found]


async def until(moment: float) -> None:
    """Sleep to a moment of the life that is looked at."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def test_every_key_has_an_expiry_at_every_moment(house: House, newcomer: Newcomer) -> None:
    """While people send, edit, react, delete and read by both doors, no look at Redis finds a key without an expiry or beyond 5 s."""
    ann, bob = newcomer(), newcomer()
    done = asyncio.Event()
    looks = 0

    async def look() -> None:
        nonlocal looks
        while not done.is_set():
            keys = list(house.keys.scan_iter(f"{house.prefix}*", count=1000))
            pipeline = house.keys.pipeline(transaction=False)
            for key in keys:
                pipeline.pttl(key)
            lives = dict(zip(keys, pipeline.execute(), strict=True))
            assert not [key for key, life in lives.items() if life == -1 or life > 5000]
            looks += len(lives)
            await asyncio.sleep(0)  # let the others work

    looking = asyncio.create_task(look())
    await asyncio.gather(live_a_little(ann, bob, "http"), live_a_little(bob, ann, "socket"))
    done.set()
    await looking
    assert looks > 100


async def live_a_little(someone: Person, other: Person, door: str) -> None:
    """Fifteen times all that can be done to a message."""
    for number in range(15):
        sent = await someone.send(other, str(number), door=door)
        url = f"/api/messages/{sent['_id']}"
        await someone.http.patch(url, json={"text": "edited"})
        await other.ask("addReaction", {"messageId": sent["_id"], "emoji": "\N{THUMBS UP SIGN}"})
        await other.read(someone)
        await someone.http.delete(url)
