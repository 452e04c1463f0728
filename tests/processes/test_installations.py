"""Several installations share a Redis: none hears or reads what belongs to another one."""

import asyncio
import functools
import logging
import secrets
from typing import Any

import msgspec
import pytest
import redis
from live import ServiceMaker, User
from pymongo.database import Database
from redis.asyncio import Redis
from shared_service import create_user, presence_channel
from waiting import wait_until

from chatlab.cache.cache import Cache
from chatlab.cache.claim import SPARE_MS
from chatlab.cache.sweeper import Sweeper
from chatlab.connections.mongo import MongoDatabase
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engines
from chatlab.protect.breaker import CircuitBreaker
from chatlab.run import doctor
from chatlab.settings import load_settings
from chatlab.store.installation import Installation, OtherInstallationError
from chatlab.store.migrations import migrate


async def connected(database: Database[Any], service: Any, name: str) -> User:
    """Return a user with a socket."""
    user = create_user(database, service, name)
    await user.connect()
    return user


async def test_installations_with_other_database_numbers_do_not_hear_each_other(
    start: ServiceMaker, engines: Engines, database: Database[Any], space: str
) -> None:
    """Same Redis, no key prefix, the same names of users: messages and presence stay where they belong.

    At the end, an event for each user is published on the channel of the user's own installation.
    Redis keeps the order, so whatever came from the other one would have arrived before.
    """
    names = (space, f"{space}-other")
    here, there = (
        start(DATABASE=name, KEY_PREFIX="", REDIS_URL=f"{engines.redis.url}?db={number}")
        for number, name in enumerate(names, 1)
    )
    other = database.client[names[1]]
    alice, bob = await connected(database, here, "alice"), await connected(other, there, "bob")
    bob_here = create_user(database, here, "bob")
    alice_there = create_user(other, there, "alice")
    await alice.send("bob", "private here")
    await bob.send("alice", "private there")
    with redis.Redis.from_url(engines.redis.url) as keys:
        for user, home in ((alice, database), (bob, other)):
            channel = presence_channel(home, "").replace("presence", f"user:{user.id}")
            subscribers = functools.partial(keys.pubsub_numsub, channel)
            await wait_until(
                subscribers, "the user's subscription", is_reached=lambda found: found[0][1]
            )
            keys.publish(channel, msgspec.json.encode(["test", "last", {}]))
    for user, text in ((alice, "private here"), (bob, "private there")):
        await user.wait_for_events("last")
        assert [message["text"] for message in user.received("newMessage")] == [text]
        assert user.received("onlineUsers") == [[user.id]]
        assert user.received("presence") == []
    database.client.drop_database(other.name)
    for user in (alice, bob, bob_here, alice_there):
        await user.close()


def cache_for(engines: Engines, space: str) -> Cache:
    """Return a cache with the keys of this test."""
    settings = load_settings(key_prefix=f"{space}:", cache_ttl=2)
    return Cache(Redis.from_url(engines.redis.url), settings, EventBus())


def breaker_of(cache: Cache) -> CircuitBreaker:
    """Return the circuit breaker of the only server."""
    (node,) = cache.servers.all()
    return node.breaker


async def test_keys_of_another_installation_are_not_used(
    engines: Engines, space: str, keys: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The second installation with the same keys does without Redis and says why, until the first one has gone."""
    first, second = cache_for(engines, space), cache_for(engines, space)
    for cache, installation in ((first, "one"), (second, "two")):
        await cache.open()
        await cache.claim(installation)
    assert [breaker_of(first).is_open, breaker_of(second).is_open] == [False, True]
    assert "Redis is unavailable: it has the keys of another installation, one" in caplog.text
    assert "set CHATLAB_KEY_PREFIX" in caplog.text
    sweeper = Sweeper(
        Redis.from_url(engines.redis.url),
        load_settings(key_prefix=f"{space}:"),
        EventBus(),
        owns_keys=lambda: second.owns_keys,
    )
    assert await sweeper.tick() is None
    assert not keys.exists(f"{space}:sweeping")
    remaining_ms = keys.pttl(f"{space}:installation")
    assert 2000 < remaining_ms <= 2000 + SPARE_MS  # longer than any window
    await first.close()
    assert breaker_of(second).is_open
    keys.delete(f"{space}:installation")  # as its expiry does
    await wait_until(lambda: not breaker_of(second).is_open, "the second one to use Redis")
    assert keys.lrange(f"{space}:installation", 0, -1) == [b"two"]
    assert await sweeper.tick() is not None
    await sweeper._connection.close()
    await second.close()


def test_the_doctor_names_the_installation(
    engines: Engines, database: Database[Any], space: str, keys: redis.Redis
) -> None:
    """It is well if the keys in Redis are free or its own, and wrong if another installation uses them."""
    settings = load_settings(
        mongo_url=engines.mongo.url,
        redis_url=engines.redis.url,
        database=space,
        key_prefix=f"{space}:",
    )
    database["installation"].insert_one({"_id": "installation", "id": "one"})
    assert [finding.ok for finding in doctor.installation(settings)] == [True]
    for holder, ok in (("one", True), ("two", False)):
        keys.delete(f"{space}:installation")
        keys.rpush(f"{space}:installation", holder)
        keys.expire(f"{space}:installation", 60)
        (finding,) = doctor.installation(settings)
        assert (finding.ok, "CHATLAB_KEY_PREFIX" in finding.fix) == (ok, not ok)


async def test_a_claim_is_renewed_and_found_again(
    engines: Engines, space: str, keys: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process keeps its claim, and stops using Redis when another installation has taken the keys."""
    monkeypatch.setattr("chatlab.cache.cache.RENEWAL_INTERVAL_S", 0.01)
    cache = cache_for(engines, space)
    await cache.open()
    await cache.claim("one")
    keys.delete(f"{space}:installation")
    await wait_until(lambda: keys.exists(f"{space}:installation"), "the claim to be renewed")
    keys.lset(f"{space}:installation", 0, "two")
    await wait_until(lambda: breaker_of(cache).is_open, "the circuit to open")
    await cache.close()


async def test_processes_that_start_together_agree_on_one_id(
    engines: Engines, database: Database[Any], space: str
) -> None:
    """The first of them stores the id, the others read it. A later start finds the same."""
    found: list[str] = []

    async def note(installation: str) -> None:
        found.append(installation)

    for _ in range(2):
        mongos = [MongoDatabase(engines.mongo.url, space, migrate) for _ in range(5)]
        await asyncio.gather(*(Installation(note).learn(mongo) for mongo in mongos))
        await asyncio.gather(*(mongo.close() for mongo in mongos))
    assert len(found) == 10
    assert {installation["id"] for installation in database["installation"].find()} == set(found)
    assert len(set(found)) == 1


async def test_a_process_does_not_go_on_with_the_data_of_another_installation(
    engines: Engines, database: Database[Any], space: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If MongoDB comes back with other data, the process serves nothing and says why. A lost id is stored again."""
    installation = Installation()

    async def prepare(mongo: MongoDatabase) -> None:
        await installation.learn(mongo)

    mongo = MongoDatabase(engines.mongo.url, space, prepare)
    await mongo.open()
    first = installation.id
    database["installation"].delete_many({})
    await installation.learn(mongo)
    assert database["installation"].find_one() == {"_id": "installation", "id": first}
    database["installation"].update_one({}, {"$set": {"id": secrets.token_hex(6)}})
    with pytest.raises(OtherInstallationError), caplog.at_level(logging.WARNING):
        await installation.learn(mongo)
    mongo.breaker.trip(ConnectionError("lost"))
    await wait_until(lambda: "has the data of another installation" in caplog.text, "the reason")
    assert mongo.breaker.is_open
    await mongo.close()
