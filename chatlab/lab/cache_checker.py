"""Test any cache of conversations, and draw the first order of commands that breaks it.

    await check_cache(lab, MyCache)

`MyCache(r, db)` gets a client of redis-py and a database of pymongo, and has these methods:

    send(a, b, text)          save a message in `db.chat` and return it: `_id`, `conversation`
                              (`dave:erin`), `version` (1) and `text`
    read(a, b)                return all messages of the two users
    change(message_id, text)  save a new text and the next version, and return the message
    sweep(known, log)         see notebook 07

The conversation is cached under `messages:dave:erin` and each message under `message:{_id}`, both as
JSON and for at most 5 s. Each test below is a promise of the service. The tests run the methods in
threads, one command after another (`race.py`), in every order of two and in random orders of three.
Two instances stand for two processes.
"""

import asyncio
import functools
import inspect
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from chatlab.errors import EngineError
from chatlab.lab.checks import (
    CORRECT,
    CheckResult,
    UnusableAnswer,
    call_answer,
    check,
    correct,
)
from chatlab.lab.lessons.sweeper import sweeps_well
from chatlab.lab.race import Race, every_order
from chatlab.lab.sentences import PremiseGone
from chatlab.lab.session import Lab
from chatlab.lab.stepped_clients import MONGO_COMMANDS
from chatlab.lab.tables import Rows

WINDOW = "messages:dave:erin"
TTL_MS = 5000
RANDOM_ORDERS = 100
LONGEST = 20  # commands of one method

Test = Callable[..., Any]


class World:
    """The stores of one test, with one message, and the cache that is tested."""

    def __init__(self, lab: Lab, cache_class: Any) -> None:
        self.lab, self._class, self._clients = lab, cache_class, lab.stepped_clients
        if keys := _keys(lab):
            lab.redis.delete(*keys)
        self._clients.mongo.chat.delete_many({})
        self.first = call_answer(self.new().send, "dave", "erin", "one")

    def new(self) -> Any:
        """Return a new instance, as another process would have one."""
        return call_answer(self._class, self._clients.redis, self._clients.mongo)

    def race(self, calls: dict[str, tuple[Any, ...]], key: str = WINDOW) -> Race:
        """Return a race of methods, each with its name and arguments."""

        def work(call: tuple[Any, ...]) -> Any:
            name, *arguments = call
            return lambda *_: call_answer(getattr(self.new(), name), *arguments)

        return Race(self.lab, key, **{name: work(call) for name, call in calls.items()})

    def truth(self) -> list[dict[str, Any]]:
        """Return what MongoDB has."""
        return list(self._clients.mongo.chat.find({"conversation": "dave:erin"}).sort("_id"))

    def require_truth(self, race: Race, found: Any, what: str) -> None:
        """Raise UnusableAnswer if a read did not return what MongoDB has."""
        if found != self.truth():
            race.note("result", f"a read returned {_texts(found)}")
            raise UnusableAnswer(
                f"{what} MongoDB has {_texts(self.truth())}, and a read returned {_texts(found)}.",
                race.picture(),
            )


def _keys(lab: Lab) -> list[str]:
    """Return the keys of the tested cache."""
    return [*lab.redis.scan_iter("*dave:erin*"), *lab.redis.scan_iter("message:*")]


def _texts(found: Any) -> str:
    if not isinstance(found, list):
        return repr(found)
    texts = [one.get("text") if isinstance(one, dict) else one for one in found]
    return f"[{', '.join(map(str, texts))}]"


READ = ("read", "dave", "erin")
SEND = ("send", "erin", "dave", "two")


# --- the tests ------------------------------------------------------------------------------------


def one_at_a_time(lab: Lab, cache_class: Any) -> str:
    """Nothing happens at the same time. A read is a hit or is filled, and every key expires."""
    world = World(lab, cache_class)
    race = step = Race(lab, WINDOW)
    for call in (READ, READ, SEND, READ, ("change", world.first["_id"], "one!"), READ, READ):
        step = world.race({call[0]: call})
        while step.unfinished:
            step.step(call[0])
            _require_expiry(lab, step)
        if step.error:
            raise step.error
        race.steps += step.steps
        race.lanes |= step.lanes
        if call is READ:
            world.require_truth(race, step.results["read"], "With one call after another,")
    if any(_is_query(one.text) for one in step.steps):
        raise UnusableAnswer(
            f"Two reads, one after the other, and the second one asked MongoDB, too. Is the"
            f" conversation cached under {WINDOW}?",
            race.picture(),
        )
    return "a second read comes from Redis, and every key expires"


def _require_expiry(lab: Lab, race: Race) -> None:
    for key in _keys(lab):
        left_ms = lab.redis.pttl(key)
        if left_ms == -1 or (key.startswith("message") and left_ms > TTL_MS):
            race.abandon()
            raise UnusableAnswer(
                f"After this command, PTTL of {key} is {left_ms}. If the process is killed now, the"
                " key stays too long. Set value and expiry in one step, for at most 5 s.",
                race.picture(),
            )


def _is_query(step: str) -> bool:
    return step.startswith(("find ", "aggregate "))


def in_every_order(lab: Lab, cache_class: Any) -> str:
    """Two or three calls at the same time. The next read has all that was saved."""
    worlds: list[World] = []

    def start(*calls: str) -> Race:
        worlds[:] = [world := World(lab, cache_class)]
        all_calls: dict[str, tuple[Any, ...]] = {
            "reader": READ,
            "sender": SEND,
            "editor": ("change", world.first["_id"], "one!"),
        }
        return world.race({name: all_calls[name] for name in calls})

    orders = 0
    for pair in itertools.combinations(("reader", "sender", "editor"), 2):
        for race in every_order(functools.partial(start, *pair)):
            orders += 1
            _require_exact(worlds[0], race)
    for seed in range(RANDOM_ORDERS):
        race, chance = start("reader", "sender", "editor"), random.Random(seed)  # noqa: S311 - no secret
        while ready := race.unfinished:
            race.step(chance.choice(ready))
        orders += 1
        _require_exact(worlds[0], race)
    return f"{orders} orders of two and three calls, and no read was stale"


def _require_exact(world: World, race: Race) -> None:
    if race.error:
        raise race.error
    others = [number for number, one in enumerate(race.steps) if one.lane != "reader"]
    read = [number for number, one in enumerate(race.steps) if one.lane == "reader"]
    if others and read and read[0] > others[-1]:  # it began after all writes had ended
        world.require_truth(race, race.results["reader"], "In this order,")
    found = call_answer(world.new().read, "dave", "erin")
    world.require_truth(race, found, "After the commands have come in this order,")


def entries_by_version(lab: Lab, cache_class: Any) -> str:
    """Each message has an entry of its own, and the higher version wins in every order."""
    worlds: list[World] = []

    def start() -> Race:
        worlds[:] = [world := World(lab, cache_class)]
        message_id = world.first["_id"]
        key = f"message:{message_id}"
        if not lab.redis.exists(key):
            raise UnusableAnswer(f"After a send there is no key {key}.")
        two = ("change", message_id, "two"), ("change", message_id, "three")
        return world.race({"ann": two[0], "ben": two[1]}, key)

    orders = 0
    for race in every_order(start):
        orders += 1
        entry = json.loads(lab.redis.get(race.key) or "{}")
        if entry.get("version") != 3:
            raise UnusableAnswer(
                f"MongoDB has version 3. The entry has version {entry.get('version')} when two"
                " changes come in this order:",
                race.picture(lost="3"),
            )
    return f"{orders} orders of two changes, and the entry has the highest version"


def without_redis(lab: Lab, cache_class: Any) -> str:
    """Each command to Redis may get no reply. No call fails, and after 5 s all reads are exact."""
    failed = 0
    for name in ("read", "send", "change"):
        for number in range(LONGEST):
            world = World(lab, cache_class)
            calls: dict[str, tuple[Any, ...]] = {
                "read": READ,
                "send": SEND,
                "change": ("change", world.first["_id"], "one!"),
            }
            race = world.race({name: calls[name]})
            if not _run_with_failure(race, name, number):
                break
            failed += 1
            if race.error:
                raise UnusableAnswer(
                    f"A command to Redis got no reply while `{name}` was running. {race.error}."
                    " The message is in MongoDB, so the user must not notice.",
                    race.picture(),
                )
            if name == "read":
                world.require_truth(race, race.results["read"], "A command got no reply.")
            _require_expiry(lab, race)
            lab.redis.delete(WINDOW)  # its 5 s are over
            found = call_answer(world.new().read, "dave", "erin")
            world.require_truth(race, found, "Even 5 s after the failure,")
    return f"{failed} commands without a reply, and no call failed"


def _run_with_failure(race: Race, name: str, number: int) -> bool:
    """Let the command to Redis with this number, and all after it, fail. Return False if none did."""
    lane, asked, failed = race.lanes[name], 0, False
    while race.unfinished:
        if lane.next_command.partition(" ")[0] not in MONGO_COMMANDS:
            lane.fails_next = asked >= number
            failed |= lane.fails_next
            asked += 1
        race.step(name)
    return failed


# --- checks ---------------------------------------------------------------------------------------


async def _run(test: Test, lab: Lab, cache_class: Any) -> str:
    if not isinstance(cache_class, type):
        raise UnusableAnswer("The answer must be a class.")
    try:
        return str(await asyncio.to_thread(test, lab, cache_class))
    except (UnusableAnswer, EngineError):
        raise
    except Exception as error:  # noqa: BLE001 - the learner's class may raise anything
        raise UnusableAnswer(f"Your class raised {type(error).__name__}: {error}") from None


async def sweep(lab: Lab, cache_class: Any) -> str:
    """Its sweep logs each expiry once, and deletes nothing."""
    if not hasattr(cache_class, "sweep"):
        raise UnusableAnswer("The class has no method `sweep`.")
    result = await sweeps_well(
        lab, lambda r, known, log: cache_class(r, lab.mongo).sweep(known, log)
    )
    if result.kind != CORRECT:
        raise UnusableAnswer(result.text, result.picture)
    return "each expiry is logged once"


TESTS: dict[str, Test] = {
    "one at a time": one_at_a_time,
    "in every order": in_every_order,
    "entries by version": entries_by_version,
    "without Redis": without_redis,
    "sweep": sweep,
}


async def _result(name: str, lab: Lab, cache_class: Any) -> str:
    test = TESTS[name]
    if inspect.iscoroutinefunction(test):
        return str(await test(lab, cache_class))
    return await _run(test, lab, cache_class)


@check
async def passes(lab: Lab, name: str, cache_class: Any) -> CheckResult:
    """Check a cache with the tests up to this one. A picture shows where it fails."""
    result = ""
    for test in list(TESTS)[: list(TESTS).index(name) + 1]:
        result = await _result(test, lab, cache_class)
    return correct(f"{result[0].upper()}{result[1:]}.")


@check
async def check_cache(lab: Lab, cache_class: Any) -> CheckResult:
    """Check any cache with all tests."""
    return await passes(lab, list(TESTS)[-1], cache_class)


async def compare(lab: Lab, *cache_classes: Any) -> Rows:
    """Return a table: which class passes which test."""
    rows = []
    for name in TESTS:
        row = [name]
        for cache_class in cache_classes:
            try:
                await _result(name, lab, cache_class)
                row.append("passes")
            except (UnusableAnswer, PremiseGone):
                row.append("fails")
        rows.append(tuple(row))
    return Rows(("test", *(one.__name__ for one in cache_classes)), rows)
