"""Presence with several sockets of a user and several processes, which stop or are killed."""

import asyncio
import json
from collections import defaultdict
from typing import Any

import redis
from live import ServiceMaker, User
from shared_service import UserMaker, create_user, meet, presence_channel, sees
from waiting import wait_until


async def is_online(witness: User, user: User) -> bool:
    """Return whether the list of users shows this user online."""
    return bool((await witness.row_of(user))["online"])


async def test_the_first_event_lists_who_is_online(new_user: UserMaker) -> None:
    """A new socket receives the sorted list of online users at once, its own user included."""
    ann, bob = new_user(), new_user()
    await bob.connect()
    await ann.connect()
    first = (await ann.wait_for_events("onlineUsers"))[0]
    assert {ann.id, bob.id} <= set(first)
    assert first == sorted(first)
    await wait_until(lambda: sees(bob, ann), "Bob to see Ann online")


async def test_a_user_goes_offline_with_the_last_socket(new_user: UserMaker) -> None:
    """A user with three sockets goes offline, in events and lists, with the last one."""
    ann, bob = new_user(), new_user()
    sockets = [await ann.connect() for _ in range(3)]
    await bob.connect()
    await wait_until(lambda: sees(bob, ann), "Bob to see Ann online")
    for socket in sockets[:2]:
        await socket.disconnect()
    await sockets[2].call("typing", {"receiverId": bob.id, "typing": True})
    await bob.wait_for_events("typing")
    assert sees(bob, ann)
    assert await is_online(bob, ann)
    await sockets[2].disconnect()
    await wait_until(lambda: not sees(bob, ann), "Bob to see Ann offline")
    assert all(ann.id in online for online in bob.received("onlineUsers")[:-1]), (
        "offline once, after the last socket"
    )
    assert not await is_online(bob, ann)


async def test_presence_and_events_cross_processes(start: ServiceMaker, database: Any) -> None:
    """A user of another process is online here and receives messages.

    When that process is killed, the user goes offline.
    """
    here, there = start(), start()
    ann, bob = create_user(database, here), create_user(database, there)
    await meet(ann, bob)
    await wait_until(lambda: is_online(ann, bob), "the list of users to show Bob online")
    sent = await ann.send(bob, "hello")
    assert await bob.wait_for_events("newMessage") == [sent]
    there.kill()
    await wait_until(lambda: not sees(ann, bob), "Ann to see Bob offline")
    assert not await is_online(ann, bob)
    assert sees(ann, ann)
    await asyncio.gather(ann.close(), bob.close(), return_exceptions=True)


async def test_a_process_that_stops_reports_it(
    start: ServiceMaker, database: Any, keys: redis.Redis, space: str
) -> None:
    """A process that stops publishes an empty list, so that the others see it at once."""
    here, there = start(), start()
    ann, bob = create_user(database, here), create_user(database, there)
    with keys.pubsub() as channel:  # type: ignore[no-untyped-call]  # redis has no types for it
        channel.subscribe(presence_channel(database, f"{space}:"))
        await meet(ann, bob)
        assert await asyncio.to_thread(there.stop) == 0
        await wait_until(lambda: not sees(ann, bob), "Ann to see Bob offline")
        lists: defaultdict[str, list[list[str]]] = defaultdict(list)
        await wait_until(
            lambda: lists_of(bob, channel, lists),
            "an empty list",
            is_reached=lambda last: last[-1:] == [[]],
        )
    await asyncio.gather(ann.close(), bob.close(), return_exceptions=True)


def lists_of(
    user: User, channel: redis.client.PubSub, lists: defaultdict[str, list[list[str]]]
) -> list[list[str]]:
    """Add the published lists to `lists`, and return those of the process that had this user."""
    while message := channel.get_message():
        if message["type"] == "message":
            process, users, *_ = json.loads(message["data"])
            lists[process].append(users)
    return next((published for published in lists.values() if [user.id] in published), [])
