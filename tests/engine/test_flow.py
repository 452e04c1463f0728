"""Stage events: the order of the stages of a request, and the lifetime of a cache entry."""

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

SEND_STAGES = [
    "request",
    "create",
    "save",
    "cache_message",
    "cache_conversation",
    "emit",
    "respond",
]
Events = list[dict[str, Any]]
SECRET = "walrus-in-the-attic"

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


@pytest.fixture
async def flow(new_user: UserMaker) -> AsyncIterator[Events]:
    """The stage events of `/flow` from now on."""
    async with watch_flow(new_user()) as events:
        yield events


@contextlib.asynccontextmanager
async def watch_flow(user: User) -> AsyncIterator[Events]:
    """Collect the events of `/flow` at this user's service."""
    events: Events = []
    client = socketio.AsyncClient(reconnection=False)
    client.on("flow", events.append, namespace="/flow")
    auth = {"token": user.token}
    await client.connect(
        user.service.url,
        auth=auth,
        namespaces=["/flow"],
        transports=["websocket"],
        wait_timeout=int(LIMIT_S),
    )
    yield events
    await client.disconnect()


async def wait_for_stages(events: Events, *stages: str) -> None:
    """Wait until each of these stages has an event."""
    await wait_until(
        lambda: {event["stage"] for event in events},
        f"the stages {stages}",
        is_reached=lambda seen: seen >= set(stages),
    )


async def stages_of(events: Events, transport: str) -> list[str]:
    """Wait for the response to the only request by this transport, and return its stages in order.

    Remove the events of the request from the list.
    """
    await wait_until(
        lambda: any(event["door"] == transport and event["stage"] == "respond" for event in events),
        f"the response by {transport}",
    )
    mine = [event for event in events if event["door"] == transport]
    assert len({event["trace"] for event in mine}) == 1
    assert [event["at"] for event in mine] == sorted(event["at"] for event in mine)
    stages = [event["stage"] for event in mine]
    events[:] = [event for event in events if event["door"] != transport]
    return stages


@pytest.mark.parametrize("transport", ["http", "socket"])
async def test_a_send_passes_the_stages_of_the_diagram(
    shared: SharedService, new_user: UserMaker, flow: Events, transport: str
) -> None:
    """A send passes all stages of the diagram in their order, by both transports."""
    ann, bob = new_user(), new_user()
    sent = await ann.send(bob, SECRET, transport=transport)
    await wait_for_stages(flow, "respond", "cached")
    all_events = flow[:]
    assert await stages_of(flow, transport) == SEND_STAGES
    keys = {
        event["stage"]: event.get("key")
        for event in all_events
        if event.get("messageId") == sent["_id"]
    }
    assert keys["cache_message"] == f"{shared.prefix}message:{sent['_id']}"
    assert (
        keys["cache_conversation"] == f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}"
    )


async def test_a_read_passes_the_stages_it_needs(
    shared: SharedService, new_user: UserMaker, flow: Events
) -> None:
    """A hit reads only the cache, a bypass only MongoDB, a miss the cache and then MongoDB."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, SECRET)
    await stages_of(flow, "http")
    await ann.read(bob)
    assert await stages_of(flow, "http") == ["request", "read_cache", "respond"]
    await ann.read(bob, fresh=True)
    assert await stages_of(flow, "http") == ["request", "read_store", "respond"]
    shared.keys.delete(f"{shared.prefix}messages:{conversation_of(ann.id, bob.id)}")
    await ann.read(bob)
    assert await stages_of(flow, "http") == ["request", "read_cache", "read_store", "respond"]


async def test_a_rejected_send_passes_no_later_stage(new_user: UserMaker, flow: Events) -> None:
    """An invalid send has no stage, and a send to an unknown user stops after `request`.

    A repeated send is not cached or emitted again.
    """
    ann, bob = new_user(), new_user()
    await ann.send(bob, "")
    await ann.send("unknown-user", SECRET)
    await ann.send(bob, SECRET, clientId="c")
    await ann.send(bob, SECRET, clientId="c")
    await wait_until(
        lambda: [event["stage"] for event in flow],
        "two responses",
        is_reached=lambda stages: stages.count("respond") == 2,
    )
    stages: dict[str, list[str]] = {}
    for event in flow:
        if event["door"] == "http":
            stages.setdefault(event["trace"], []).append(event["stage"])
    to_unknown_user, first, repeated = stages.values()
    assert to_unknown_user == ["request"]
    assert first == SEND_STAGES
    assert "emit" not in repeated
    assert "cache_message" not in repeated


async def test_events_have_the_stage_and_the_time_but_no_text(
    shared: SharedService, new_user: UserMaker, flow: Events
) -> None:
    """Each event has trace, door, stage, at and tookMs.

    Neither the events nor the log contain the text or the client id of a message.
    """
    ann, bob = new_user(), new_user()
    began_ms = time.time() * 1000
    sent = await ann.send(bob, SECRET, transport="socket", clientId=f"id-{SECRET}")
    await ann.ask("editMessage", {"messageId": sent["_id"], "text": f"more {SECRET}"})
    await ann.read(bob)
    await wait_for_stages(flow, "respond", "sweep", "cached", "read_cache")
    for event in flow:
        assert event.keys() >= {"trace", "door", "stage", "at", "tookMs"}
        assert event["door"] in ("http", "socket", "cache", "worker")
        assert began_ms - 1000 < event["at"] < time.time() * 1000 + 1000
        assert event["tookMs"] >= 0
    assert SECRET not in json.dumps(flow)
    assert SECRET not in shared.service.log.read_text()
    assert sent["_id"] in shared.service.log.read_text()


@pytest.mark.parametrize("auth", ["", "{}", '{"token":"wrong"}', '{"token":1}'])
async def test_the_flow_needs_a_token(shared: SharedService, auth: str) -> None:
    """`/flow` rejects a connection without a valid token."""
    async with unauthenticated(shared.service) as stranger:
        await stranger.send(f"40/flow,{auth}")
        assert '"unauthenticated"' in (await stranger.receive_until("44/flow,") or "")


async def test_a_log_out_closes_the_flow(new_user: UserMaker) -> None:
    """The connection of a user to `/flow` is closed when the user logs out."""
    ann = new_user()
    async with raw_socket(ann, "/flow,") as watcher:
        await watcher.receive_until("42/flow,")
        assert (await ann.http.post("/api/auth/logout")).status_code == 204
        assert await watcher.receive_until("never") is None
        assert watcher.is_closed


async def test_there_is_no_flow_unless_it_is_turned_on(
    shared: SharedService, new_user: UserMaker, tmp_path: Any
) -> None:
    """Without CHATLAB_FLOW, `/flow` rejects every client, no stage is logged, and sockets work."""
    with shared.another_process(tmp_path / "log", FLOW="0") as other:
        ann = new_user(at=other.service)
        async with raw_socket(ann) as raw:
            await raw.send(f"40/flow,{json.dumps({'token': ann.token})}")
            assert (await raw.receive_until("44/flow,") or "").startswith("44/flow,")
            assert (await raw.ask("sendMessage", {"receiverId": ann.id, "text": SECRET}))["ok"]
            assert await raw.is_alive()
            assert not [frame for frame in raw.frames if frame.startswith("42/flow")]
        assert "chatlab.flow" not in other.service.log.read_text()


# --- the lifetime of a key ---


async def test_a_read_keeps_the_expiry_and_an_edit_starts_a_new_ttl(
    shared: SharedService, new_user: UserMaker
) -> None:
    """A message cache entry expires one TTL after the send.

    A read does not change the expiry. An edit starts a new TTL for the edited message only.
    """
    ann, bob = new_user(), new_user()
    began = redis_time_ms(shared)
    sent = await ann.http.post("/api/messages/send", json={"receiverId": bob.id, "text": "a"})
    changing = await ann.send(bob, "b")
    key, other = (
        f"{shared.prefix}message:{message_id}"
        for message_id in (sent.json()["_id"], changing["_id"])
    )
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
    """An expired message is gone from Redis, but reads still find it in MongoDB.

    The flow reports once that it was cached, has expired, and was cleaned.
    """
    with shared.another_process(tmp_path / "log", CACHE_TTL="1") as other:
        ann, bob = new_user(at=other.service), new_user(at=other.service)
        async with watch_flow(ann) as flow:
            sent = await ann.send(bob, "a")
            key = f"{other.prefix}message:{sent['_id']}"
            stages = await wait_until(
                lambda: [
                    event["stage"]
                    for event in flow
                    if event.get("key") == key and event["door"] == "cache"
                ],
                f"{key} to be reported as cleaned",
                is_reached=lambda seen: "cleaned" in seen,
            )
            swept = len([event for event in flow if event["stage"] == "sweep"])
            await wait_until(
                lambda: len([event for event in flow if event["stage"] == "sweep"]) > swept,
                "one more sweep",
            )
        assert stages == ["cached", "expired", "cleaned"]
        assert [event["stage"] for event in flow if event.get("key") == key].count("cleaned") == 1
        assert other.keys.pttl(key) == -2
        assert (await bob.read(ann)).json() == [sent]


async def test_every_key_has_an_expiry_at_every_moment(
    shared: SharedService, new_user: UserMaker
) -> None:
    """At no moment is a key without an expiry, or a key of the cache has more than its TTL left.

    Two users send, edit, react, delete and read through both transports meanwhile.
    """
    ann, bob = new_user(), new_user()
    done = asyncio.Event()
    checked_keys = 0

    async def check_keys() -> None:
        nonlocal checked_keys
        while not done.is_set():
            keys = list(shared.keys.scan_iter(f"{shared.prefix}*", count=1000))
            pipeline = shared.keys.pipeline(transaction=False)
            for key in keys:
                pipeline.pttl(key)
            pttls = dict(zip(keys, pipeline.execute(), strict=True))
            assert not [key for key, pttl in pttls.items() if pttl == -1]
            cached = f"{shared.prefix}message".encode()  # `message:` and `messages:`
            assert not [
                key for key, pttl in pttls.items() if key.startswith(cached) and pttl > TTL_S * 1000
            ]
            checked_keys += len(pttls)
            await asyncio.sleep(0)  # let the users work

    checking = asyncio.create_task(check_keys())
    while checked_keys <= 100 and not checking.done():
        await asyncio.gather(
            use_all_requests(ann, bob, "http"), use_all_requests(bob, ann, "socket")
        )
    done.set()
    await checking


async def use_all_requests(user: User, other: User, transport: str) -> None:
    """Send, edit, react to, read and delete 15 messages."""
    for number in range(15):
        sent = await user.send(other, str(number), transport=transport)
        url = f"/api/messages/{sent['_id']}"
        await user.http.patch(url, json={"text": "edited"})
        await other.ask("addReaction", {"messageId": sent["_id"], "emoji": "\N{THUMBS UP SIGN}"})
        await other.read(user)
        await user.http.delete(url)
