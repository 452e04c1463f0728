"""Who is online: several sockets a person, several processes, and a process that dies."""

import asyncio
from typing import Any

from house import Newcomer, settle
from live import Person, ServiceMaker, eventually


def sees(witness: Person, someone: Person) -> bool:
    """True when the last thing the witness heard has this user online."""
    heard = witness.heard("onlineUsers")
    return bool(heard) and someone.id in heard[-1]


async def test_the_first_word_is_who_is_online(newcomer: Newcomer) -> None:
    """Whoever connects is told at once who is there, themself included, sorted."""
    ann, bob = newcomer(), newcomer()
    await bob.connect()
    await ann.connect()
    first = (await ann.hears("onlineUsers"))[0]
    assert {ann.id, bob.id} <= set(first)
    assert first == sorted(first)
    await eventually(lambda: sees(bob, ann))


async def test_a_person_goes_with_the_last_socket(newcomer: Newcomer) -> None:
    """Online with the first of three sockets, offline only when the last has gone, in events and in the list of users."""
    ann, bob = newcomer(), newcomer()
    await bob.connect()
    sockets = [await ann.connect() for _ in range(3)]
    await eventually(lambda: sees(bob, ann))
    for socket in sockets[:2]:
        await socket.disconnect()
    await sockets[2].call("typing", {"receiverId": bob.id, "typing": True})
    await bob.hears("typing")
    assert sees(bob, ann)
    assert await online(bob, ann)
    await sockets[2].disconnect()
    await eventually(lambda: not sees(bob, ann))
    assert not await online(bob, ann)


async def online(witness: Person, someone: Person) -> bool:
    """What the list of users says."""
    rows = {row["id"]: row for row in (await witness.http.get("/api/users")).json()}
    return bool(rows[someone.id]["online"])


async def test_presence_and_events_cross_processes(start: ServiceMaker, database: Any) -> None:
    """Somebody at another process is online here, hears what is sent here, and is gone soon after that process is killed."""
    here, there = start(), start()
    ann, bob = settle(database, here), settle(database, there)
    await asyncio.gather(ann.connect(), bob.connect())
    await eventually(lambda: sees(ann, bob) and sees(bob, ann), within=5)
    assert await online(ann, bob)
    sent = await ann.send(bob, "hello")
    assert await bob.hears("newMessage") == [sent]
    there.kill()
    await eventually(lambda: not sees(ann, bob), within=6)
    assert not await online(ann, bob)
    assert sees(ann, ann)
    await asyncio.gather(ann.close(), bob.close(), return_exceptions=True)


async def test_a_stopped_process_says_goodbye(start: ServiceMaker, database: Any) -> None:
    """Who was at a process that is stopped in order is offline for the others at once."""
    here, there = start(), start()
    ann, bob = settle(database, here), settle(database, there)
    await asyncio.gather(ann.connect(), bob.connect())
    await eventually(lambda: sees(ann, bob), within=5)
    assert await asyncio.to_thread(there.stop) == 0
    await eventually(lambda: not sees(ann, bob), within=1)
    await asyncio.gather(ann.close(), bob.close(), return_exceptions=True)
