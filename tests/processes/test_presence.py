"""Presence with several sockets of a user and several processes, which stop or are killed."""

import asyncio
from typing import Any

import msgspec
import redis
from live import ServiceMaker
from shared_service import UserMaker, create_user, is_online, meet, presence_channel, sees
from waiting import wait_until

from chatlab.domain.ids import UserId
from chatlab.realtime.presence import PresenceReport


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
    # Two on a busy machine: the news that Ann has connected may come after her first message.
    changes = bob.received("presence")
    assert changes == [{"userId": ann.id, "online": True}] * len(changes)
    assert len(changes) in (1, 2)


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


def read_reports(
    channel: redis.client.PubSub, reports: list[PresenceReport]
) -> list[PresenceReport]:
    """Add what was published since the last call to the reports, and return all of them."""
    while message := channel.get_message():
        if message["type"] == "message":
            reports.append(msgspec.json.decode(message["data"], type=PresenceReport))
    return reports
