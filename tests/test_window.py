"""The conversation window keeps its promises: whatever the order of things, and each rule that it has is needed for them."""

import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from window_world import GRACE, TTL, WRITES, World, selected

import chatlab.service
import chatlab.store.store
from chatlab.cache.cache import SOURCE, Cache, Glimpse, grace_ms
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message
from chatlab.domain.requests import Page
from chatlab.local.engines import Engines

CHUNK = 4  # messages that a read asks MongoDB for at once: small, so that long histories are met too


@pytest.fixture(scope="module", autouse=True)
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chatlab.service, "CHUNK", CHUNK)
        patch.setattr(chatlab.store.store, "CHUNK", CHUNK)
        yield


@pytest.fixture(scope="module")
def client(engines: Engines) -> Iterator[redis.Redis]:
    """Redis as the worlds of this file use it."""
    with redis.Redis.from_url(engines.redis.url) as client:
        yield client


PAGES = st.just(Page()) | st.builds(
    Page,
    limit=st.none() | st.integers(1, 6),
    before=st.none() | st.integers(0, 8),
    after=st.none() | st.integers(0, 8),
)
MOMENTS = st.sampled_from([100, GRACE // 2, GRACE + 50, TTL - GRACE - 50, TTL - GRACE // 2, TTL + 1])
FAR = st.sampled_from([0, 1, 1, 3, 99])  # steps that a request makes before others come between; 1: saved, 3: read from MongoDB
PROCESSES = st.integers(0, 1)
ANY = st.integers(0, 11)


class Interleavings(RuleBasedStateMachine):
    """Two processes send, edit and read; their steps are delayed and mixed in every way; time passes; nothing is lost."""

    redis: redis.Redis
    source = SOURCE
    exact = True

    @initialize(window_size=st.sampled_from([1, 2, 3, 5, 100]))
    def begin(self, window_size: int) -> None:
        self.world = World(self.redis, self.source, window_size, self.exact)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    @rule(process=PROCESSES, far=FAR)
    def send(self, process: int, far: int) -> None:
        self.world.send(process).come(far)

    @precondition(lambda self: self.world.messages)
    @rule(process=PROCESSES, back=st.integers(0, 2), far=FAR)
    def edit(self, process: int, back: int, far: int) -> None:
        self.world.edit(max(1, len(self.world.messages) - back), process).come(far)

    @rule(process=PROCESSES, page=PAGES, far=FAR)
    def read(self, process: int, page: Page, far: int) -> None:
        self.world.read(process, page).come(far)

    @precondition(lambda self: self.world.steps)
    @rule(which=ANY)
    def step(self, which: int) -> None:
        self.world.let_happen(self.world.steps[which % len(self.world.steps)])

    @precondition(lambda self: self.world.actors)
    @rule(which=ANY)
    def finish(self, which: int) -> None:
        self.world.actors[which % len(self.world.actors)].finish()

    @rule(milliseconds=MOMENTS)
    def wait(self, milliseconds: int) -> None:
        self.world.wait(milliseconds)


class Faults(Interleavings):
    """Cache writes that are lost, evictions, outages that one process sees and the other does not, and commands that come after them."""

    exact = False

    @precondition(lambda self: any(step.script in WRITES for step in self.world.steps))
    @rule(which=ANY)
    def lose(self, which: int) -> None:
        writes = [step for step in self.world.steps if step.script in WRITES]
        self.world.lose(writes[which % len(writes)])

    @rule(process=PROCESSES)
    def lose_redis(self, process: int) -> None:
        self.world.processes[process].lose_redis()

    @rule(process=PROCESSES)
    def probe(self, process: int) -> None:
        if self.world.processes[process].out:
            self.world.processes[process].probe()

    @rule(process=PROCESSES)
    def find_redis(self, process: int) -> None:
        if self.world.processes[process].out:
            self.world.processes[process].find_redis()

    @rule(noticed_by=st.sets(PROCESSES))
    def restart_redis(self, noticed_by: set[int]) -> None:
        """With nobody who notices it: an eviction."""
        self.world.evict()
        for process in noticed_by:
            self.world.processes[process].short_outage()


def search(machine: type[Interleavings], client: redis.Redis, examples: int, steps: int = 30) -> None:
    """Try that many schedules, the same ones in every run."""
    machine.redis = client
    budget = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=budget)


def test_without_faults_reads_are_exact(client: redis.Redis) -> None:
    """Every read that begins after an acknowledged send or change shows it, in order and without gaps, through any process."""
    search(Interleavings, client, 200)


def test_with_faults_no_read_is_older_than_one_ttl(client: redis.Redis) -> None:
    """Whatever is lost, no read misses what is older than one TTL, and a process never shows what is older than an outage that it saw."""
    search(Faults, client, 200)


# --- each guard, taken away ----------------------------------------------------------------------------------------------------------
# A story is one order of things that its guard keeps harmless. Requests stop where `step` leaves them and go on when `finish` is called.
# The steps of a send: save, window. Of a change: save, window. Of a read: window, and if that is not enough MongoDB, its answer, fill.


def dropping_after_a_late_send(world: World) -> None:
    """A send comes to the window when the window that knew a higher version has ended."""
    world.send().finish()
    world.wait(TTL - GRACE - 50)
    send = world.send().step()
    world.edit(2, process=1).finish()
    world.wait(GRACE + 100)
    send.finish()
    world.read().finish()


def trusting_no_window_older_than_an_outage(world: World) -> None:
    """A change is lost by a process that notices nothing; one that has seen an outage knows better."""
    world.exact = False
    world.send().finish()
    world.edit(1, process=1).step().lose()
    world.processes[0].short_outage()
    world.read().finish()


def a_life_of_grace_after_each_write(world: World) -> None:
    """The window that knows the higher version ends before the delayed send comes, which is not late yet."""
    world.send().finish()
    world.wait(TTL - GRACE // 2)
    send = world.send().step()
    world.edit(2, process=1).finish()
    world.wait(GRACE // 2 + 1)
    send.finish()
    world.read().finish()


def the_fence_of_a_change(world: World) -> None:
    """A reader widens the window with a message that has been changed since it was read."""
    world.send().finish()
    world.wait(TTL + 1)
    world.send().finish()
    read = world.read().step(3)
    world.edit(1, process=1).finish()
    read.finish()
    world.read().finish()


def the_fence_against_a_late_fill(world: World) -> None:
    """The late fill that hides a newer version: read, then a change, then the fill with what was read."""
    world.send().finish()
    world.wait(TTL + 1)
    read = world.read().step(3)
    world.edit(1, process=1).finish()
    read.finish()
    world.read().finish()


def the_age_of_a_fill(world: World) -> None:
    """A fill waits until the fence that would refuse it has ended with a window that another reader had filled before."""
    world.send().finish()
    world.wait(TTL + 1)
    quick = world.read(process=1).step()
    world.wait(GRACE // 2)
    slow = world.read().step(3)
    quick.finish()
    world.wait(TTL - GRACE - GRACE // 2 - 100)
    world.edit(1, process=1).finish()
    world.wait(GRACE + 150)
    slow.finish()
    world.read().finish()


def widening_only_what_is_there(world: World) -> None:
    """The window ends while a reader asks for what is older; the older ones alone are no window."""
    world.send().finish()
    world.wait(TTL + 1)
    world.send().finish()
    world.wait(TTL - GRACE // 2)
    read = world.read().step(3)
    world.wait(GRACE // 2 + 1)
    read.finish()
    world.read().finish()


def a_window_as_old_as_what_it_knows(world: World) -> None:
    """A delayed send starts a window with a version that was outdated when it came, by a change that was lost."""
    world.exact = False
    send = world.send().step()
    world.edit(1, process=1).step().lose()
    world.wait(GRACE - 50)
    send.finish()
    world.wait(TTL - GRACE + 150)
    world.read().finish()


def no_start_on_a_fence(world: World) -> None:
    """A change finds no window and leaves a fence; then comes the delayed send with the first version."""
    send = world.send().step()
    world.edit(1, process=1).finish()
    send.finish()
    world.read().finish()


def no_gap(world: World) -> None:
    """A reader has read what is before a hole, and the window is after it."""
    world.send().finish()
    world.wait(TTL + 1)
    read = world.read().step(3)
    world.send(process=1).step()
    world.send(process=1).finish()
    read.finish()
    world.read().finish()


def the_higher_version_wins(world: World) -> None:
    """Two changes of one message come to the window in the wrong order."""
    world.send().finish()
    edit = world.edit(1).step()
    world.edit(1, process=1).finish()
    edit.finish()
    world.read().finish()


def joined_as_old_as_the_older(world: World) -> None:
    """A change was lost; then widening would give the window that lacks it a new life."""
    world.exact = False
    world.send().finish()
    world.wait(TTL + 1)
    world.send().finish()
    world.edit(2).step().lose()
    world.wait(TTL - GRACE)
    world.read().finish()
    world.wait(GRACE + 100)
    world.read().finish()


def no_late_message(world: World) -> None:
    """The first version of a message comes when the key with its second version has ended."""
    world.send().finish()
    message, began = world.messages[0], world.now()
    world.wait(GRACE + 1)
    world.redis.delete(world.message_key(1))
    assert not world.do(world.processes[0].cache.keep(message, began))


def no_late_change_of_a_message(world: World) -> None:
    """The same with a change."""
    world.send().finish()
    message, began = world.messages[0], world.now()
    world.wait(GRACE + 1)
    world.redis.delete(world.message_key(1))
    assert not world.do(world.processes[0].cache.keep_changed(message, began))


def a_send_never_replaces(world: World) -> None:
    """The delayed first version of a message does not take the place of its second."""
    world.send().finish()
    first, began = world.messages[0], world.now()
    world.edit(1).finish()
    assert not world.do(world.processes[0].cache.keep(first, began))
    assert world.redis.get(world.message_key(1)) == world.messages[0].json


Story = Callable[[World], None]
# The guard: its story, the rule in its line, and what stands there instead when it is taken away.
GUARDS: dict[str, tuple[Story, str, str]] = {
    "dropping after a late send": (dropping_after_a_late_send, "if late then", "if false then"),
    "trusting no window older than an outage": (trusting_no_window_older_than_an_outage, "window.born >= epoch", "true"),
    "a life of GRACE after each write": (a_life_of_grace_after_each_write, "redis.call('PTTL', key) < grace", "false"),
    "the fence of a change": (the_fence_of_a_change, "window.fence = now", ""),
    "the fence against a late fill": (the_fence_against_a_late_fill, "if began <= window.fence then", "if false then"),
    "the age of a fill": (the_age_of_a_fill, "if late then", "if false then"),
    "widening only what is there": (widening_only_what_is_there, "if widen then", "if false then"),
    "a window as old as what it knows": (a_window_as_old_as_what_it_knows, "start(window, began,", "start(window, now,"),
    "no start on a fence": (no_start_on_a_fence, "if window.there and window.count == 0 then", "if false then"),
    "no gap": (no_gap, "if last < window.oldest - 1 or first > window.newest + 1 then", "if false then"),
    "the higher version wins": (
        the_higher_version_wins,
        "if kept and given and version_of(given) <= version_of(kept) then",
        "if false then",
    ),
    "joined, as old as the older of the two": (joined_as_old_as_the_older, "math.min(window.born, began)", "began"),
    "no late message": (no_late_message, "if late then", "if false then"),
    "no late change of a message": (no_late_change_of_a_message, "if late then", "if false then"),
    "a send never replaces": (a_send_never_replaces, ", 'NX'", ""),
}


def without(guard: str) -> str:
    """The scripts without this guard."""
    (line,) = [line for line in SOURCE.splitlines() if line.endswith(f"-- guard: {guard}")]
    _, rule_, instead = GUARDS[guard]
    assert rule_ in line
    return SOURCE.replace(line, line.replace(rule_, instead))


def test_each_guard_has_its_story() -> None:
    """Every line of the scripts that calls itself a guard is taken away below."""
    assert sorted(GUARDS) == sorted(line.partition("-- guard: ")[2] for line in SOURCE.splitlines() if "-- guard: " in line)


@pytest.fixture
def tell(client: redis.Redis) -> Callable[..., None]:
    """Let a story happen in a new world."""

    def teller(story: Callable[[World], None], source: str = SOURCE) -> None:
        world = World(client, source)
        try:
            story(world)
        finally:
            world.close()

    return teller


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(guard: str, tell: Callable[..., None]) -> None:
    """The order of things that a guard is for does no harm, and does harm once that one line is taken away."""
    story = GUARDS[guard][0]
    tell(story)
    with pytest.raises(AssertionError):
        tell(story, without(guard))


# --- the guards of a shared query -----------------------------------------------------------------------------------------


def a_change_since_the_question(world: World) -> None:
    """A reader comes while the answer to another's question is on its way, and a change has come after the question."""
    world.send().finish()
    world.wait(TTL + 1)
    world.read().step(2)
    world.edit(1, process=1).finish()
    world.read().finish()


def an_outage_since_the_question(world: World) -> None:
    """The change was lost, and the process has seen an outage since."""
    world.exact = False
    world.send().finish()
    world.wait(TTL + 1)
    world.read().step(2)
    world.edit(1, process=1).step().lose()
    world.processes[0].short_outage()
    world.read().finish()


def a_fence_that_has_ended(world: World) -> None:
    """The answer takes so long that the fence of the change has ended with the window that it stood in."""
    world.send().finish()
    world.wait(TTL + 1)
    quick = world.read(process=1).step()
    world.wait(GRACE // 2)
    world.read().step(2)
    quick.finish()
    world.wait(TTL - GRACE - GRACE // 2 - 100)
    world.edit(1, process=1).finish()
    world.wait(GRACE + 150)
    world.read().finish()


SHARING = {
    "the fence": (a_change_since_the_question, "max(glimpse.fence, epoch)", "epoch"),
    "the epoch": (an_outage_since_the_question, "max(glimpse.fence, epoch)", "glimpse.fence"),
    "the age": (a_fence_that_has_ended, " and glimpse.token - self.token <= grace * 1000", ""),
}


def may_serve_without(rule_: str, instead: str) -> Any:
    """The rule of sharing as `service.py` has it, but for one part."""
    source = textwrap.dedent(inspect.getsource(chatlab.service._Query.may_serve))
    assert source.count(rule_) == 1
    names: dict[str, Any] = {"Glimpse": Glimpse}
    exec(source.replace(rule_, instead), names)  # noqa: S102 - our own source
    return names["may_serve"]


@pytest.mark.parametrize("guard", SHARING)
def test_each_guard_of_a_shared_query_is_needed(guard: str, tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers share a question to MongoDB only if nothing that they must see can have come after it."""
    story, rule_, instead = SHARING[guard]
    tell(story)
    monkeypatch.setattr(chatlab.service._Query, "may_serve", may_serve_without(rule_, instead))
    with pytest.raises(AssertionError):
        tell(story)


def a_change_between_probe_and_return(world: World) -> None:
    """A window is younger than the probe that ended the outage, and a change passes it by before the breaker is closed."""
    world.exact = False
    world.send().finish()
    world.wait(TTL + 1)
    world.processes[0].lose_redis()
    world.processes[0].probe()
    world.read(process=1).finish()
    world.edit(1).finish()
    world.processes[0].find_redis()
    world.read().finish()


def test_a_missed_window_is_dropped_before_anything_else(tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process could not tell a window while its breaker was open, it mends in the moment the breaker closes."""
    tell(a_change_between_probe_and_return)
    monkeypatch.setattr(Cache, "_mend", lambda _: None)
    with pytest.raises(AssertionError, match="stale messages"):
        tell(a_change_between_probe_and_return)


def test_chance_finds_a_missing_guard_too(client: redis.Redis) -> None:
    """The search that finds nothing wrong with the scripts does find something once a guard is missing."""

    class Unguarded(Interleavings):
        source = without("the higher version wins")

    with pytest.raises(AssertionError, match="stale messages"):
        search(Unguarded, client, 600)


# --- the scripts one by one -----------------------------------------------------------------------------------------------

CONVERSATION = Conversation("alice:bob")


@pytest.fixture
def world(client: redis.Redis) -> Iterator[World]:
    """A world of its own for one test."""
    world = World(client)
    yield world
    world.close()


def fill(world: World, messages: list[Message], token: int | None = None, *, widen: bool = False) -> str | None:
    """Fill with messages that have been read just now, or after `token`."""
    answer: str | None = world.do(world.processes[0].cache.fill(CONVERSATION, token or world.now(), messages, widen=widen))
    world.check_key()
    return answer


def held(world: World, page: Page | None = None) -> list[int]:
    """The seqs of a page that the window has."""
    glimpse = world.do(world.processes[0].cache.glimpse(CONVERSATION, page or Page()))
    return [message["seq"] for message in json.loads(b"[" + glimpse.joined + b"]")]


def test_a_fill_says_what_became_of_it(world: World) -> None:
    """Filled, joined, full, apart, fenced, old, nothing to widen: each has its word, and only the first two change the window."""
    messages = world.save(9)
    assert fill(world, messages[4:6], widen=True) == "nothing to widen"
    assert fill(world, messages[4:6]) == "filled"
    assert fill(world, messages[2:4], widen=True) == "joined"
    assert fill(world, messages[5:7]) == "joined"
    assert fill(world, messages[8:9]) == "apart"
    assert fill(world, messages[0:1]) == "apart"
    assert fill(world, messages[1:2], world.now() - (GRACE + 50) * 1000) == "old"
    token = world.now()
    world.edit(1).finish()
    assert fill(world, messages[1:2], token) == "fenced"
    assert held(world) == [3, 4, 5, 6, 7]


def test_no_more_than_fit(client: redis.Redis) -> None:
    """A window keeps its newest messages, however many are offered and from whichever side they come."""
    for size in (1, 2, 3):
        world = World(client, window_size=size)
        messages = world.save(5)
        assert fill(world, messages[1:4]) == "filled"
        assert held(world) == [2, 3, 4][-size:]
        older = messages[max(0, 3 - size) : 4 - size]
        assert fill(world, older, widen=True) == "full"
        assert fill(world, messages[3:5]) == "joined"
        assert held(world) == [3, 4, 5][-size:]
        world.send().finish()
        assert held(world) == [4, 5, 6][-size:]
        world.close()


def test_a_large_window(client: redis.Redis) -> None:
    """The largest window there may be is filled and joined in one go each; Lua's stack would not hold it."""
    world = World(client, window_size=10_000)
    messages = world.save(9_100)
    assert fill(world, messages[:9_000]) == "filled"
    assert fill(world, messages[8_900:]) == "joined"
    assert len(held(world)) == 9_100
    world.close()


EDGES = [None, 0, 1, 2, 3, 5, 7, 8, 9]


@pytest.mark.parametrize("limit", [None, 1, 2, 5, 2**53 - 1])
def test_the_part_of_a_page_that_a_window_has(world: World, limit: int | None) -> None:
    """For every limit, before and after the script names the contract's page, gives its part of it, and knows if that is all."""
    fill(world, world.save(7)[2:])
    for before, after in itertools.product([*EDGES, 2**53 - 1], repeat=2):
        page = Page(limit=limit, before=before, after=after)
        glimpse = world.do(world.processes[0].cache.glimpse(CONVERSATION, page))
        wanted = selected(page, 7)
        assert list(range(glimpse.lowest, glimpse.highest + 1)) == wanted
        assert held(world, page) == [seq for seq in wanted if seq >= 3]
        assert glimpse.covers == all(seq >= 3 for seq in wanted)


FOREIGN = {
    "a string": ("SET", "x"),
    "a hash": ("HSET", "field", "x"),
    "another list": ("RPUSH", "x", "y"),
    "a damaged header": ("RPUSH", "1:2:", "{}"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("write", ["append", "change", "fill"])
def test_what_is_not_ours_is_replaced(world: World, kind: str, write: str) -> None:
    """Another value under the key of a window is no window to a reader, breaks nothing, and is gone after the next write or fill."""
    (message,) = world.save(1)
    command, *value = FOREIGN[kind]
    world.command((command, world.key, *value))
    assert held(world) == []
    if write == "fill":
        assert fill(world, [message]) == "filled"
    else:
        assert world.do(getattr(world.processes[0].cache, write)(message, world.now()))
    world.check_key()
    assert held(world) == ([] if write == "change" else [1])  # a change alone leaves a fence


def test_a_short_ttl(world: World) -> None:
    """With the shortest TTL, 0.1 s, GRACE is 20 ms, and no key has a longer TTL."""
    cache = world.processes[0].cache
    cache.ttl_ms = 100
    assert grace_ms(100) == 20
    (message,) = world.save(1)
    assert world.do(cache.keep(message, world.now()))
    assert -1 != world.redis.pttl(world.message_key(1)) <= 100
    began = world.now()
    assert world.do(cache.append(message, began))
    assert began // 1000 + 99 <= world.expires_ms <= began // 1000 + 100


def test_an_empty_conversation(world: World) -> None:
    """A conversation without messages is read, and leaves no key."""
    world.read().finish()
    assert not world.redis.exists(world.key)


def test_a_changed_message_is_cached_in_its_highest_version(world: World) -> None:
    """Of two changes that come in the wrong order the key of the message holds the later one, with a new life."""
    cache = world.processes[0].cache
    world.send().finish()
    second = world.do(cache.message(world.messages[0].id))
    third = msgspec.structs.replace(second, version=3)
    world.redis.pexpire(world.message_key(1), GRACE)
    assert world.do(cache.keep_changed(third, world.now()))
    assert not world.do(cache.keep_changed(second, world.now()))
    assert world.redis.get(world.message_key(1)) == third.json
    assert GRACE < world.redis.pttl(world.message_key(1)) <= TTL
