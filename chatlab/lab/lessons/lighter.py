"""Notebook 11: the queries that the cache saves, and the memory that it needs in Redis."""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from chatlab.bench.claims import TOLERANCE
from chatlab.bench.memory import CACHED_MESSAGES, MESSAGE_BYTES
from chatlab.bench.raw_http import RawHttpClient
from chatlab.cache.keys import Keys
from chatlab.domain.ids import conversation_of
from chatlab.lab.checks import (
    CheckResult,
    UnusableAnswer,
    call_answer,
    call_for_number,
    check,
    correct,
    is_number,
    not_yet,
)
from chatlab.lab.claims import DEPENDS, FAILS, HOLDS, ClaimResult, ClaimResults, holds_if
from chatlab.lab.measure import Row, Table, send_many
from chatlab.lab.polling import poll_until
from chatlab.lab.race import Race
from chatlab.lab.sentences import PremiseGone, TooSlow
from chatlab.lab.session import Lab
from chatlab.lab.stepped_redis import record_steps
from chatlab.lab.user import User

SEND = "/api/messages/send"
INTERVALS_S = (1.1, 1.4, 2, 3, 6)
STRETCH = 20  # a TTL that is shortened is set that many times longer, so a slow machine is in time
LIFETIMES = 2  # of a window, in which reads are counted
WRITERS = 50  # connections that send at the same time: their messages share one commit
SAMPLE_S = 0.05
EXPIRED_WITHIN_S = 15.0
MANY, MANY_TTL_MS, AT_ONCE = 30_000, 4000, 3000
NOTES = "note:*"
CRON_S = 0.3  # Redis looks at its own RSS ten times a second
VALUE, OVERHEAD, TOTAL, THOUSAND = 500, 200, 700, 700_000  # bytes, as the document says

Memory = tuple[int, int]  # used_memory and used_memory_rss, in bytes


# --- queries --------------------------------------------------------------------------------------


async def count_finds(lab: Lab, reader: User, other: User, reads: int = 20) -> dict[str, int]:
    """Read several times in each mode of the cache, and count the queries of MongoDB."""

    async def read() -> None:
        for _ in range(reads):
            await reader.read(other.id)

    await other.send_by_http(reader.id, "Read me again and again")
    key, finds = Keys().window(conversation_of(reader.id, other.id)), {}
    for mode in ("off", "window"):
        await lab.update_settings(cache_mode=mode)
        lab.redis.delete(key)
        finds[mode] = (await lab.record_queries(read())).mongo.count("find messages")
    return finds


async def share_of_misses(lab: Lab, reader: User, other: User, every_s: float) -> float:
    """Read as if `every_s` seconds passed between two reads; return the share that asked MongoDB.

    The reads from the first miss up to the third are counted, without the third. After each read
    the window gets the TTL that it would have left, stretched, and is deleted if that is none. So
    the pace of the machine does not matter.
    """
    key = Keys().window(conversation_of(reader.id, other.id))
    reads, misses, left_ms = 0, 0, 0
    lab.redis.delete(key)
    while True:
        cache = (await reader.read(other.id)).cache
        if cache == "bypass":  # Redis did not reply in time
            raise TooSlow
        if cache != "hit":
            misses, left_ms = misses + 1, lab.settings.ttl_ms
            if misses == LIFETIMES + 1:
                return LIFETIMES / reads
        reads += 1
        left_ms -= round(every_s * 1000)
        lab.redis.pexpire(key, left_ms * STRETCH)  # 0 or less deletes the key


# --- one key --------------------------------------------------------------------------------------


async def _alice_and_bob(lab: Lab) -> tuple[User, User]:
    """Return both without their sockets, whose events would take time."""
    return await lab.user("alice", connect=False), await lab.user("bob", connect=False)


async def message_of(lab: Lab, size: int) -> tuple[str, int]:
    """Send a message whose JSON has this many bytes. Return its key and the length of its text."""
    (alice, bob), text = await _alice_and_bob(lab), "x"
    while True:
        reply = await alice.http.post(SEND, json={"receiverId": bob.id, "text": text})
        missing = size - len(reply.content)
        if not missing:
            return f"message:{reply.json()['_id']}", len(text)
        text = "x" * (len(text) + missing)


async def weigh(lab: Lab, size: int = MESSAGE_BYTES) -> dict[str, int]:
    """Return the bytes of a cached message, of its key, and of its text."""
    key, letters = await message_of(lab, size)
    json_bytes, memory = lab.redis.strlen(key), lab.redis.memory_usage(key)
    if memory is None:
        raise PremiseGone(f"{key} is not in Redis.", "run the cell again")
    return {"json": json_bytes, "memory": memory, "letters": letters}


# --- a thousand -----------------------------------------------------------------------------------


class Filled(NamedTuple):
    """1000 messages in Redis, in bytes. `used`: what Redis used before, with them, and after.

    `keys`: of messages that existed at the same time. `endless`: keys without an expiry.
    `still`: keys that exist afterwards.
    """

    keys: int
    endless: int
    still: int
    messages: int
    windows: int
    used: tuple[int, int, int]

    @property
    def grown(self) -> int:
        return self.used[1] - self.used[0]

    @property
    def left(self) -> int:
        return max(0, self.used[2] - self.used[0])


class Thousand(Table):
    """1000 messages next to the document. `samples`: the memory over time, for a chart.

    `sent_s`: the second of the last send.
    """

    def __init__(self, filled: Filled, samples: list[dict[str, float]], sent_s: float) -> None:
        self.filled, self.samples, self.sent_s = filled, samples, sent_s
        rows: list[Row] = [
            (False, ("keys without an expiry", "none", str(filled.endless))),
            (True, ("keys that existed at the same time", str(CACHED_MESSAGES), str(filled.keys))),
            (True, ("memory of these keys", f"about {_kb(THOUSAND)}", _kb(filled.messages))),
            (True, ("memory of their window", "not counted", _kb(filled.windows))),
            (True, ("growth of used_memory", "", _kb(filled.grown))),
            (True, ("growth that is left later", "nothing", _kb(filled.left))),
            (False, ("keys that are left", "none", str(filled.still))),
        ]
        heads = f"{CACHED_MESSAGES} messages of {MESSAGE_BYTES} bytes", "the document", "here"
        super().__init__(heads, rows)


async def thousand(lab: Lab) -> Thousand:
    """Send 1000 messages over 50 connections, measure their keys, and wait until they expire.

    A second process of the service receives them. It reports no flow events, which would slow down
    both the service and this notebook.
    """
    alice, bob = await _alice_and_bob(lab)
    text = "x" * (await weigh(lab))["letters"]
    url = await lab.service.start_extra("quiet")
    clients = [lab.raw_client(alice, url) for _ in range(WRITERS)]
    try:
        return await _send_a_thousand(lab, clients, bob, text)
    finally:
        await lab.service.stop_extras()


async def _send_a_thousand(
    lab: Lab, clients: Sequence[RawHttpClient], receiver: User, text: str
) -> Thousand:
    await send_many(clients, receiver.id, CACHED_MESSAGES // 10, text)  # opens all connections
    _delete(lab, "message*")
    empty = memory(lab)[0]
    async with _sampled(lab, empty) as samples:
        began = time.monotonic()
        await send_many(clients, receiver.id, CACHED_MESSAGES, text)
        full, sent_s = memory(lab)[0], time.monotonic() - began
        entries, windows = (
            list(lab.redis.scan_iter(p, count=1000)) for p in ("message:*", "messages:*")
        )
        endless = sum(lab.redis.pttl(key) == -1 for key in entries + windows)
        sizes = total(lab, entries), total(lab, windows)
        still = await _wait_until_gone(lab, "message*")
        await asyncio.sleep(1)
    filled = Filled(len(entries), endless, still, *sizes, (empty, full, memory(lab)[0]))
    return Thousand(filled, samples, sent_s)


@contextlib.asynccontextmanager
async def _sampled(lab: Lab, empty: int) -> AsyncIterator[list[dict[str, float]]]:
    """Record what Redis uses, and how many messages it has, until the block ends."""
    samples: list[dict[str, float]] = []
    began = time.monotonic()

    async def sample() -> None:
        while True:
            second, used = time.monotonic() - began, memory(lab)[0]
            samples.append(
                {"second": second, "kb": (used - empty) / 1000, "keys": lab.redis.dbsize()}
            )
            await asyncio.sleep(SAMPLE_S)

    sampling = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


def memory(lab: Lab) -> Memory:
    """Return the memory of Redis, as Redis counts it and as the operating system does (RSS)."""
    info = lab.redis.info("memory")
    return info["used_memory"], info["used_memory_rss"]


def total(lab: Lab, keys: Iterable[str]) -> int:
    """Return the bytes of these keys. One that has expired counts 0."""
    return sum(lab.redis.memory_usage(key, samples=0) or 0 for key in keys)


def _delete(lab: Lab, pattern: str) -> None:
    for key in lab.redis.scan_iter(pattern, count=1000):
        lab.redis.delete(key)


async def _wait_until_gone(lab: Lab, pattern: str) -> int:
    """Wait until these keys have expired. Return how many are left after a long time."""
    keys = functools.partial(lab.redis.scan_iter, pattern, count=1000)
    await poll_until(lambda: not any(keys()), EXPIRED_WITHIN_S, 0.1)
    return len(list(keys()))


def _kb(size: float) -> str:
    return f"{size / 1000:,.0f} KB" if size else "nothing"


async def fill_and_wait(lab: Lab) -> tuple[Memory, Memory, Memory]:
    """Return the memory before 30,000 keys are written, while they exist, and after their end."""
    before = memory(lab)
    for first in range(0, MANY, AT_ONCE):
        with lab.redis.pipeline(transaction=False) as pipe:
            for number in range(first, first + AT_ONCE):
                pipe.set(f"note:{number:024}", "x" * MESSAGE_BYTES, px=MANY_TTL_MS)
            pipe.execute()
        await asyncio.sleep(0)
    await asyncio.sleep(CRON_S)
    full = memory(lab)
    await _wait_until_gone(lab, NOTES)
    await asyncio.sleep(CRON_S)
    return before, full, memory(lab)


# --- exercise 1: the share of reads that ask MongoDB ----------------------------------------------


@check
async def predicts_misses(lab: Lab, reader: User, other: User, answer: Any) -> CheckResult:
    """Check a formula for the share of misses against the running service."""
    call_for_number(answer, 2)  # an unusable answer is reported at once
    told = []
    for every_s in INTERVALS_S:
        measured = await share_of_misses(lab, reader, other, every_s)
        said = call_for_number(answer, every_s)
        if abs(said - measured) > 0.01:
            return not_yet(
                f"One read every {every_s:g} s: one of {1 / measured:g} reads asked MongoDB,"
                f" a share of {measured:.2f}, and your function returned {said:.2f}."
                f" {_misses_hint(said, every_s)}"
            )
        told.append(f"every {every_s:g} s one of {1 / measured:g}")
    return correct(f"Reads that asked MongoDB: {', '.join(told)}.")


def _misses_hint(said: float, every_s: float) -> str:
    if abs(said - every_s / 5) < 0.01:
        return "The number of reads in 5 s is a whole number: when is the first one, when the last?"
    if abs(said - 1 + 1 / math.ceil(5 / every_s)) < 0.01:
        return "That is the share of hits."
    return "How many reads happen from one miss to the next, with the miss?"


# --- exercise 2: the memory of some keys ----------------------------------------------------------

PAGE, PAGES, VICTIM = "page:exercise:", "page:exercise:*", "page:exercise:2"
TRIES = 20


@check
async def adds_up(lab: Lab, answer: Any) -> CheckResult:
    """Check a sum of MEMORY USAGE: strings, a long list, and a key that expires meanwhile."""
    try:
        size = await asyncio.to_thread(_check_sum, lab, answer)
    finally:
        _delete(lab, PAGES)
    return correct(
        f"Your sum is exact, {size:,} bytes here, and it does not fail if a key expires meanwhile."
    )


def _check_sum(lab: Lab, answer: Any) -> int:
    r = lab.redis
    _write_pages(lab)
    returned: list[Any] = []
    steps = record_steps(r, lambda one: returned.append(call_answer(answer, one, PAGES)))
    size = total(lab, r.scan_iter(PAGES))
    if any(step.startswith("KEYS") for step in steps):
        raise UnusableAnswer("KEYS blocks Redis while it looks at all keys. Use r.scan_iter.")
    _require_size(returned[0], size, lab)
    if call_answer(answer, r, "nothing:*") != 0:
        raise UnusableAnswer("If no key matches the pattern, the sum must be 0.")
    for number in range(TRIES):
        _write_pages(lab)
        race = Race(lab, VICTIM, reader=lambda one, _: call_answer(answer, one, PAGES))
        for _ in range(number):
            if race.unfinished:
                race.step("reader")
        is_over = not race.unfinished
        r.delete(VICTIM)
        race.note("reader", f"({VICTIM} expires here)")
        try:
            race.run("reader")
        except UnusableAnswer as error:
            raise UnusableAnswer(f"A key expired meanwhile. {error}", race.picture()) from None
        if is_over:
            break
    return size


def _write_pages(lab: Lab) -> None:
    r = lab.redis
    _delete(lab, PAGES)
    for number, letters in enumerate((1, 50, 3000)):
        r.set(f"{PAGE}{number}", "x" * letters, ex=60)
    # The first five parts of this list are smaller than the others.
    r.rpush(f"{PAGE}list", *["x" * 4200] * 5, *["x" * 8000] * 20)
    r.expire(f"{PAGE}list", 60)


def _require_size(said: Any, size: int, lab: Lab) -> None:
    if not is_number(said):
        raise UnusableAnswer(f"Your function returned {said!r}. It must return a number of bytes.")
    if said == size:
        return
    sampled = sum(lab.redis.memory_usage(key) or 0 for key in lab.redis.scan_iter(PAGES))
    hint = (
        "You counted an estimate: of a long list, MEMORY USAGE looks at five parts only. With samples=0"
        " it looks at all of them."
        if said == sampled
        else "Add up r.memory_usage(key, samples=0) of all keys that match the pattern."
    )
    raise UnusableAnswer(f"The keys take {size:,} bytes, and you returned {said:,}. {hint}")


# --- exercise 3: a steady stream ------------------------------------------------------------------

STREAMS = ((0.25, 60.0), (0.5, 60.0), (0.25, 120.0))  # messages a second, TTL in seconds
CLOSE = 0.05  # on a slow machine, a key may expire a little early


class Stream(NamedTuple):
    """Messages at a steady rate.

    `rate`: messages in a second. `size`: bytes of a key. `live`: keys at any moment, on average.
    """

    rate: float
    ttl_s: float
    size: float
    live: float


@check
async def steady(lab: Lab, answer: Any) -> CheckResult:
    """Check a formula: send at a steady rate, and count the live keys."""
    call_for_number(answer, *STREAMS[0], TOTAL)  # an unusable answer is reported at once
    seen = []
    for rate, ttl_s in STREAMS:
        found = await _watch_stream(lab, rate, ttl_s)
        said, measured = call_for_number(answer, rate, ttl_s, found.size), found.live * found.size
        seen.append(
            f"{rate:g} messages a second, each cached for {ttl_s:g} s: {found.live:.0f} keys of"
            f" {found.size:.0f} bytes, together {measured:,.0f} bytes."
        )
        if abs(said - measured) > CLOSE * measured:
            return not_yet(f"{seen[-1]} You said {said:,.0f}. {_steady_hint(said, found)}")
    return correct(
        f"{' '.join(seen)} Arrivals in a second times seconds that each stays: this is Little's law."
    )


def _steady_hint(said: float, found: Stream) -> str:
    if abs(said - found.rate * found.size) < 1:
        return "That is what comes in one second. How many seconds does each message stay?"
    if abs(said - found.rate * found.ttl_s) < 1:
        return "That is the number of keys. How many bytes do they take?"
    return "How many messages come while one of them is cached? All of these exist when it expires."


async def _watch_stream(lab: Lab, rate: float, ttl_s: float) -> Stream:
    """Send as if 1 / `rate` seconds passed between two messages, and count the keys after each.

    After each message all keys get the TTL that they would have left by the next one, so the pace
    of the machine does not matter. The first keys must have expired before the count begins.
    """
    alice, bob = await _alice_and_bob(lab)
    _delete(lab, "message*")
    await lab.update_settings(cache_ttl=ttl_s)
    step_ms, lifetime = round(1000 / rate), round(rate * ttl_s)
    left_ms, counts, sizes = dict[str, int](), list[int](), list[int]()
    try:
        for number in range(2 * lifetime):
            sent = await alice.send_by_http(bob.id, "tick")
            left_ms[f"message:{sent.message['_id']}"] = round(ttl_s * 1000)
            if number >= lifetime:
                keys = list(lab.redis.scan_iter("message:*", count=1000))
                counts.append(len(keys))
                sizes += [size for key in keys[:1] if (size := lab.redis.memory_usage(key))]
            left_ms = {key: left - step_ms for key, left in left_ms.items() if left > 0}
            with lab.redis.pipeline(transaction=False) as pipe:
                for key, left in left_ms.items():
                    pipe.pexpire(key, left)  # 0 or less deletes the key
                pipe.execute()
    finally:
        await lab.update_settings(cache_ttl=lab.start_settings.get("cache_ttl", 5))
    if not sizes:
        raise TooSlow
    return Stream(rate, ttl_s, sum(sizes) / len(sizes), sum(counts) / len(counts))


# --- claims ---------------------------------------------------------------------------------------


def claims(
    lab: Lab,
    finds: Mapping[str, int],
    shares: Mapping[float, float],
    weight: Mapping[str, int],
    full: Thousand,
    many: Sequence[Memory],
) -> ClaimResults:
    """Return the verdicts for load and for the memory table.

    `shares`: the share of reads that asked MongoDB, by seconds between two reads.
    """
    filled, overhead = full.filled, weight["memory"] - weight["json"]
    return lab.record_claims(
        _load_claim(finds, shares),
        ClaimResult(
            "auto_cleanup",
            f"{filled.endless} keys without an expiry; {filled.still} left when their time was up",
            holds_if(_is_clean(filled)),
        ),
        _message_claim(weight),
        ClaimResult(
            "overhead_bytes", f"{overhead} bytes", holds_if(_about(overhead, OVERHEAD)), timed=True
        ),
        ClaimResult(
            "total_bytes",
            f"{weight['memory']} bytes",
            holds_if(_about(weight["memory"], TOTAL)),
            timed=True,
        ),
        _thousand_claim(filled),
        ClaimResult(
            "freed",
            f"Redis used {_kb(filled.grown)} more, and {_kb(filled.left)} of this is left",
            holds_if(_is_freed(filled)),
            timed=True,
        ),
        _leaks_claim(filled, many),
    )


def _load_claim(finds: Mapping[str, int], shares: Mapping[float, float]) -> ClaimResult:
    told = ", ".join(f"every {every_s:g} s {share:.0%}" for every_s, share in shares.items())
    saves = [share < 1 for share in shares.values()] + [finds["window"] < finds["off"]]
    return ClaimResult(
        "less_load",
        f"20 quick reads: {finds['off']} queries without it, {finds['window']} with it; of reads"
        f" {told} ask MongoDB",
        HOLDS if all(saves) else DEPENDS if any(saves) else FAILS,
    )


def _message_claim(weight: Mapping[str, int]) -> ClaimResult:
    """Judge the size of a message, which depends on what people write."""
    bare = weight["json"] - weight["letters"]
    return ClaimResult(
        "message_bytes",
        f"{bare} bytes and the text: {weight['json']} with {weight['letters']} letters",
        DEPENDS if bare < VALUE else FAILS,
    )


def _thousand_claim(filled: Filled) -> ClaimResult:
    size = CACHED_MESSAGES * filled.messages / max(1, filled.keys)
    computed = "" if filled.keys == CACHED_MESSAGES else f" (computed from {filled.keys} keys)"
    return ClaimResult(
        "thousand_bytes",
        f"{_kb(size)} in message:*{computed}, and {_kb(filled.windows)} in their window",
        holds_if(_about(size, THOUSAND)),
        timed=True,
    )


def _leaks_claim(filled: Filled, many: Sequence[Memory]) -> ClaimResult:
    (_, before), (_, full), (_, after) = many
    grown, left = full - before, min(full - before, max(0, after - before))
    leaks = not (_is_clean(filled) and _is_freed(filled))
    return ClaimResult(
        "no_leaks",
        f"Redis's own count falls back; of {_kb(grown)} more RSS it keeps {_kb(left)}",
        FAILS if leaks else DEPENDS if left > TOLERANCE * grown else HOLDS,
        timed=True,
    )


def _is_clean(filled: Filled) -> bool:
    return filled.keys > 0 and not filled.endless and not filled.still


def _is_freed(filled: Filled) -> bool:
    return filled.left <= TOLERANCE * filled.grown


def _about(measured: float, claimed: float) -> bool:
    return abs(measured / claimed - 1) <= TOLERANCE
