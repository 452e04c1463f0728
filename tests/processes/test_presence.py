"""Presence with several sockets of a user and several processes, which stop or are killed."""

import asyncio
import functools
import math
import time
from typing import Any

import msgspec
import pytest
import redis
from faults import frozen
from live import Service, ServiceMaker
from shared_service import UserMaker, create_user, is_online, meet, presence_channel, sees
from waiting import wait_until

from chatlab.client import ChatClient
from chatlab.domain.ids import UserId
from chatlab.realtime.other_processes import MISSED_REPORTS
from chatlab.realtime.presence import REPORT_INTERVAL_S, SILENCE_S, PresenceReport
from chatlab.realtime.resync import NOTICE_DIFFERENCE_S


async def test_the_first_event_lists_the_partners_who_are_online(new_user: UserMaker) -> None:
    """A new socket receives the sorted list at once, its own user included. Strangers are left out."""
    ann, bob, eve, stranger = (new_user() for _ in range(4))
    await bob.send(ann, "hello")
    await ann.send(eve, "hello")  # who is offline
    await bob.connect()
    await stranger.connect()
    await ann.connect()
    assert (await ann.wait_for_events("onlineUsers"))[0] == sorted([ann.id, bob.id])
    await wait_until(lambda: sees(bob, ann), "Bob to see Ann online")
    assert stranger.received("onlineUsers") == [[stranger.id]]
    assert stranger.received("presence") == []


async def test_users_see_each_other_from_their_first_message_on(new_user: UserMaker) -> None:
    """The first message makes them partners, also while both are connected."""
    ann, bob = new_user(), new_user()
    await meet(ann, bob)
    assert not sees(ann, bob)
    await ann.send(bob, "hello")
    await wait_until(lambda: sees(ann, bob) and sees(bob, ann), "the two to see each other")
    await ann.send(bob, "again")
    await bob.wait_for_events("newMessage", 2)
    await ann.wait_for_events("newMessage", 2)
    for user, other in ((ann, bob), (bob, ann)):
        changes = user.received("presence")
        assert changes == [{"userId": other.id, "online": True}], "exactly one event"


async def test_a_user_goes_offline_with_the_last_socket(new_user: UserMaker) -> None:
    """A user with three sockets goes offline, in events and lists, with the last one."""
    ann, bob = new_user(), new_user()
    await ann.send(bob, "hello")
    await bob.connect()
    sockets = [await ann.connect() for _ in range(3)]
    await wait_until(lambda: sees(bob, ann), "Bob to see Ann online")
    for socket in sockets:
        await socket.disconnect()
    assert await is_online(bob, ann), "a user who reconnects at once was never away"
    await wait_until(lambda: not sees(bob, ann), "Bob to see Ann offline")
    assert not await is_online(bob, ann)
    changes = [change["online"] for change in bob.received("presence")]
    assert changes == [True, False], "one change each, however many sockets"


async def test_presence_and_events_cross_processes(start: ServiceMaker, database: Any) -> None:
    """A user of another process is online here and receives messages.

    When that process is killed, the user goes offline. Both are partners from the first message on.
    """
    here, there = start(), start()
    ann, bob = create_user(database, here), create_user(database, there)
    await meet(ann, bob)
    sent = await ann.send(bob, "hello")
    assert await bob.wait_for_events("newMessage") == [sent]
    await wait_until(lambda: sees(ann, bob) and sees(bob, ann), "the two to see each other")
    there.kill()
    await wait_until(lambda: not sees(ann, bob), "Ann to see Bob offline")
    assert not await is_online(ann, bob)
    assert sees(ann, ann)
    await asyncio.gather(ann.close(), bob.close(), return_exceptions=True)


async def test_users_of_a_process_that_stops_may_go_to_another_one(
    start: ServiceMaker, database: Any
) -> None:
    """The process reports its end. Who reconnects elsewhere never goes offline, the others do."""
    here, there = start(), start()
    ann, bob, eve = (create_user(database, service) for service in (here, there, there))
    for partner in (bob, eve):
        await partner.send(ann, "hello")
    await meet(ann, bob, eve)
    assert await asyncio.to_thread(there.stop) == 0
    bob_here = await bob.at(here)
    await bob_here.connect()
    await wait_until(lambda: not sees(ann, eve), "Ann to see Eve offline")
    assert sees(ann, bob)
    away = [change["userId"] for change in ann.received("presence") if not change["online"]]
    assert away == [eve.id]
    await asyncio.gather(
        *(user.close() for user in (ann, bob, eve, bob_here)), return_exceptions=True
    )


async def test_a_process_that_missed_a_report_asks_for_the_whole_list(
    start: ServiceMaker, database: Any, space: str, keys: redis.Redis
) -> None:
    """Reports have versions. After a gap, the list of the other process is right again."""
    here, there = start(), start()
    ann, bob = create_user(database, here), create_user(database, there)
    channel = presence_channel(database, f"{space}:")
    with keys.pubsub() as heard:  # type: ignore[no-untyped-call]  # redis has no types for it
        heard.subscribe(channel)
        await meet(ann, bob)
        reports: list[PresenceReport] = []

        def joining() -> list[PresenceReport]:
            return [one for one in read_reports(heard, reports) if bob.id in one.joined]

        joined = (await wait_until(joining, "the report of Bob"))[-1]

        def answers() -> list[PresenceReport]:
            whole = [one for one in read_reports(heard, reports) if one.is_whole]
            return [one for one in whole if one.process_id == joined.process_id]

        before = len(answers())
        # A report with another version than the next one, as if those between were lost.
        wrong = PresenceReport(joined.process_id, joined.version + 5, left=[UserId(bob.id)])
        keys.publish(channel, msgspec.json.encode(wrong))
        await wait_until(answers, "the whole list", is_reached=lambda seen: len(seen) > before)
        asking = [one.process_id for one in reports if one.asks == joined.process_id]
        assert len(set(asking)) == 1, "the process of Ann has asked"
    assert await is_online(ann, bob)
    await asyncio.gather(ann.close(), bob.close())


async def test_only_a_process_without_a_goodbye_causes_a_resync(
    service: Service, new_channel: str, keys: redis.Redis, database: Any
) -> None:
    """The clients read again after the end of another process, unless it has said goodbye."""
    ann = create_user(database, service)
    await ann.connect()
    with keys.pubsub() as heard, keys.pipeline() as at_once:  # type: ignore[no-untyped-call]  # redis has no types for it
        heard.subscribe(new_channel)
        at_once.publish(new_channel, msgspec.json.encode(PresenceReport("stopped", 1)))
        goodbye = PresenceReport("stopped", 1, is_last=True)
        at_once.publish(new_channel, msgspec.json.encode(goodbye))
        at_once.execute()
        await wait_for_own_reports(heard)
        await ann.send(ann, "its event comes after a resync")
        await ann.wait_for_events("newMessage")
        assert ann.received("resync") == []
        keys.publish(new_channel, msgspec.json.encode(PresenceReport("killed", 1)))
        await ann.wait_for_events("resync")
    await ann.close()


@pytest.fixture
def new_channel(service: Service, database: Any, space: str) -> str:
    """Return the channel in which the processes of the service report."""
    del service  # it stores the id of its installation
    return presence_channel(database, f"{space}:")


async def wait_for_own_reports(heard: redis.client.PubSub) -> None:
    """Wait until the only process has reported so often that it would have sent a `resync`."""
    reports: list[PresenceReport] = []

    def count() -> int:
        names = ("stopped", "killed")
        seen = read_reports(heard, reports)
        return sum(one.is_regular and one.process_id not in names for one in seen)

    enough = MISSED_REPORTS + math.ceil(NOTICE_DIFFERENCE_S / REPORT_INTERVAL_S) + 1
    await wait_until(count, "regular reports", is_reached=lambda seen: seen >= enough)


async def test_a_process_that_stops_says_goodbye(
    service: Service, new_channel: str, keys: redis.Redis
) -> None:
    """It has a fraction of a second for that, so it may take several attempts."""
    with keys.pubsub() as heard:  # type: ignore[no-untyped-call]  # redis has no types for it
        heard.subscribe(new_channel)
        reports: list[PresenceReport] = []

        async def stop_and_listen() -> bool:
            assert await asyncio.to_thread(service.stop) == 0
            await asyncio.to_thread(service.restart)
            return any(one.is_last for one in read_reports(heard, reports))

        await wait_until(stop_and_listen, "a goodbye")


async def test_a_process_that_was_frozen_still_publishes_its_events(
    start: ServiceMaker, database: Any
) -> None:
    """It has heard no other process for a while, and does not take itself for the only one."""
    here, there = start(), start()
    ann, bob = create_user(database, here), create_user(database, there)
    await meet(ann, bob)
    listener = ChatClient(there.url, {"id": bob.id}, bob.token)
    await listener.connect()
    with frozen(here.process.pid):
        over = time.monotonic() + SILENCE_S + 0.5
        await wait_until(lambda: time.monotonic() > over, "the other process to be forgotten")
    sent = await ann.send(bob, "after the pause")
    received = functools.partial(received_by, listener)
    await wait_until(received, "the message", is_reached=lambda seen: sent in seen)
    await asyncio.gather(ann.close(), bob.close(), listener.close())


def received_by(client: ChatClient) -> list[Any]:
    """Return the new messages that a client has received, or read after a `resync`."""
    return [event.payload for event in client.received if event.event == "newMessage"]


def read_reports(
    channel: redis.client.PubSub, reports: list[PresenceReport]
) -> list[PresenceReport]:
    """Add what was published since the last call to the reports, and return all of them."""
    while message := channel.get_message():
        if message["type"] == "message":
            reports.append(msgspec.json.decode(message["data"], type=PresenceReport))
    return reports
