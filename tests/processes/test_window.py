"""The conversation window keeps its promises in every order of events, and each of its guards is needed for that.

`docs/cache.md` draws the schedule of each guard.
"""

import contextlib
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
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from window_world import ALICE, BOB, GRACE_MS, TTL_MS, WRITES, World, selected

import chatlab.history
import chatlab.store.messages
from chatlab.cache.clock import RedisClock
from chatlab.cache.clock_steps import ClockSteps
from chatlab.cache.keys import Ttls, grace_period_ms
from chatlab.cache.node import CacheNode
from chatlab.cache.window import SOURCE, WindowSnapshot
from chatlab.domain.ids import Conversation
from chatlab.domain.message import Message
from chatlab.domain.requests import Page
from chatlab.local.engines import Engines

HOUR_MS = 3_600_000
CHUNK_MESSAGES = 4  # small, so that histories of several chunks occur often


@pytest.fixture(scope="module", autouse=True)
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chatlab.history, "CHUNK_MESSAGES", CHUNK_MESSAGES)
        patch.setattr(chatlab.store.messages, "STREAMED_MESSAGES", CHUNK_MESSAGES)
        yield


@pytest.fixture(scope="module")
def client(engines: Engines) -> Iterator[redis.Redis]:
    """Return the client that the simulated worlds use."""
    with redis.Redis.from_url(engines.redis.url) as client:
        yield client


PAGES = st.just(Page()) | st.builds(
    Page,
    limit=st.none() | st.integers(1, 6),
    before=st.none() | st.integers(0, 8),
    after=st.none() | st.integers(0, 8),
)
WAITS_MS = st.sampled_from(
    [100, GRACE_MS // 2, GRACE_MS + 50, TTL_MS - GRACE_MS - 50, TTL_MS - GRACE_MS // 2, TTL_MS + 1]
)
STEPS_MS = st.sampled_from([-HOUR_MS, -TTL_MS - 1000, -TTL_MS // 2, -300, 300, TTL_MS, HOUR_MS])
MAX_STEPS = st.sampled_from(
    [0, 1, 1, 3, 99]
)  # after 1 a send is saved, after 3 a read has read MongoDB
PROCESSES = st.integers(0, 1)
ANY = st.integers(0, 11)


class Interleavings(RuleBasedStateMachine):
    """Two processes send, edit and read. Their steps are delayed and interleaved. Nothing is lost.

    A process may give up on commands because its event loop was late, without an outage.
    """

    redis: redis.Redis
    source = SOURCE
    exact = True

    @initialize(window_size=st.sampled_from([1, 2, 3, 5, 100]))
    def begin(self, window_size: int) -> None:
        self.world = World(self.redis, self.source, window_size, self.exact)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    @rule(process=PROCESSES, max_steps=MAX_STEPS)
    def send(self, process: int, max_steps: int) -> None:
        self.world.send(process).advance(max_steps)

    @precondition(lambda self: self.world.messages)
    @rule(process=PROCESSES, back=st.integers(0, 2), max_steps=MAX_STEPS)
    def edit(self, process: int, back: int, max_steps: int) -> None:
        self.world.edit(max(1, len(self.world.messages) - back), process).advance(max_steps)

    @rule(process=PROCESSES, page=PAGES, max_steps=MAX_STEPS)
    def read(self, process: int, page: Page, max_steps: int) -> None:
        self.world.read(process, page).advance(max_steps)

    @precondition(lambda self: self.world.steps)
    @rule(which=ANY)
    def step(self, which: int) -> None:
        self.world.run_step(self.world.steps[which % len(self.world.steps)])

    @precondition(lambda self: self.world.actors)
    @rule(which=ANY)
    def finish(self, which: int) -> None:
        self.world.actors[which % len(self.world.actors)].finish()

    @rule(process=PROCESSES)
    def give_up(self, process: int) -> None:
        self.world.processes[process].give_up()

    @rule(milliseconds=WAITS_MS)
    def wait(self, milliseconds: int) -> None:
        self.world.wait(milliseconds)


class Faults(Interleavings):
    """As above, with lost cache writes, evictions, outages that only one process notices, late commands, and steps of the clock of Redis."""

    exact = False

    @rule(milliseconds=STEPS_MS)
    def step_clock(self, milliseconds: int) -> None:
        self.world.step_clock(milliseconds)

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
        if self.world.processes[process].has_lost_redis:
            self.world.processes[process].probe()

    @rule(process=PROCESSES)
    def find_redis(self, process: int) -> None:
        if self.world.processes[process].has_lost_redis:
            self.world.processes[process].find_redis()

    @rule(noticed_by=st.sets(PROCESSES))
    def restart_redis(self, noticed_by: set[int]) -> None:
        """Empty Redis. If no process notices it, this is an eviction."""
        self.world.evict()
        for process in noticed_by:
            self.world.processes[process].short_outage()


SCHEDULES = [60, pytest.param(1000, marks=pytest.mark.slow)]


def search(
    machine: type[Interleavings], client: redis.Redis, examples: int, steps: int = 30
) -> None:
    """Try this number of random schedules, the same ones in every run."""
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


@pytest.mark.parametrize("schedules", SCHEDULES)
def test_without_faults_reads_are_exact(client: redis.Redis, schedules: int) -> None:
    """Every read that begins after an acknowledged send or change shows it, in order and without gaps, through any process."""
    search(Interleavings, client, schedules)


@pytest.mark.parametrize("schedules", SCHEDULES)
def test_with_faults_no_read_is_older_than_one_ttl(client: redis.Redis, schedules: int) -> None:
    """Whatever is lost, no read lacks anything older than one TTL, or than an outage that its process noticed."""
    search(Faults, client, schedules)


# --- the guards of the scripts --------------------------------------------------------------------------------------------------------
# Each story is a schedule that its guard keeps harmless. A request stops after `step` and continues with `finish`.
# Steps of a send or a change: save, window. Steps of a read: window and, if needed, query, result, fill.


def dropping_after_a_late_send(world: World) -> None:
    """A send reaches the window after the window that held a higher version has expired."""
    world.send().finish()
    world.wait(TTL_MS - GRACE_MS - 50)
    send = world.send().step()
    world.edit(2, process=1).finish()
    world.wait(GRACE_MS + 100)
    send.finish()
    world.read().finish()


def trusting_no_window_older_than_an_outage(world: World) -> None:
    """A process loses a change without noticing. A process that noticed the outage does not trust the window."""
    world.exact = False
    world.send().finish()
    world.edit(1, process=1).step().lose()
    world.processes[0].short_outage()
    world.read().finish()


def a_grace_period_after_each_write(world: World) -> None:
    """The window that holds the higher version expires before the delayed send arrives, which is not late yet."""
    world.send().finish()
    world.wait(TTL_MS - GRACE_MS // 2)
    send = world.send().step()
    world.edit(2, process=1).finish()
    world.wait(GRACE_MS // 2 + 1)
    send.finish()
    world.read().finish()


def the_fence_of_a_change(world: World) -> None:
    """A reader widens the window with a message that was changed after it was read."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    world.send().finish()
    read = world.read().step(3)
    world.edit(1, process=1).finish()
    read.finish()
    world.read().finish()


def the_fence_against_a_late_fill(world: World) -> None:
    """A late fill hides a newer version: a read, then a change, then the fill of the read."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    read = world.read().step(3)
    world.edit(1, process=1).finish()
    read.finish()
    world.read().finish()


def the_age_of_a_fill(world: World) -> None:
    """A fill hangs until the fence that would refuse it has expired with the window."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    quick = world.read(process=1).step()
    world.wait(GRACE_MS // 2)
    slow = world.read().step(3)
    quick.finish()
    world.wait(TTL_MS - GRACE_MS - GRACE_MS // 2 - 100)
    world.edit(1, process=1).finish()
    world.wait(GRACE_MS + 150)
    slow.finish()
    world.read().finish()


def widening_only_an_existing_window(world: World) -> None:
    """The window expires while a reader queries the older messages, which must not become a window alone."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    world.send().finish()
    world.wait(TTL_MS - GRACE_MS // 2)
    read = world.read().step(3)
    world.wait(GRACE_MS // 2 + 1)
    read.finish()
    world.read().finish()


def a_window_as_old_as_what_it_knows(world: World) -> None:
    """A delayed send starts a window with an outdated version, because a change was lost."""
    world.exact = False
    send = world.send().step()
    world.edit(1, process=1).step().lose()
    world.wait(GRACE_MS - 50)
    send.finish()
    world.wait(TTL_MS - GRACE_MS + 150)
    world.read().finish()


def no_start_on_a_fence(world: World) -> None:
    """A change finds no window and leaves a fence. Then the delayed send arrives with the first version."""
    send = world.send().step()
    world.edit(1, process=1).finish()
    send.finish()
    world.read().finish()


def no_gap(world: World) -> None:
    """A reader offers messages before a gap, and the window begins after it."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    read = world.read().step(3)
    world.send(process=1).step()
    world.send(process=1).finish()
    read.finish()
    world.read().finish()


def the_higher_version_wins(world: World) -> None:
    """Two changes of one message reach the window in the wrong order."""
    world.send().finish()
    edit = world.edit(1).step()
    world.edit(1, process=1).finish()
    edit.finish()
    world.read().finish()


def joined_as_old_as_the_older(world: World) -> None:
    """A change was lost. Widening must not give a new TTL to the window that lacks it."""
    world.exact = False
    world.send().finish()
    world.wait(TTL_MS + 1)
    world.send().finish()
    world.edit(2).step().lose()
    world.wait(TTL_MS - GRACE_MS)
    world.read().finish()
    world.wait(GRACE_MS + 100)
    world.read().finish()


def no_fill_over_a_window_that_others_trust(world: World) -> None:
    """One process distrusts the window after an outage. Another one, which noticed no outage, appends a message before the fill of the first."""
    world.send().finish()
    world.processes[0].short_outage()
    read = world.read().step(3)
    world.send(process=1).finish()
    read.finish()
    world.read(process=1).finish()


def no_shared_query_over_a_window_that_others_trust(world: World) -> None:
    """One process distrusts the window after an outage, and a query of it is in flight. Another one, which noticed no outage, appends a message before the next read of the first."""
    world.send().finish()
    world.processes[0].short_outage()
    world.read().step(2)
    world.send(process=1).finish()
    world.read().finish()


def no_window_from_the_future(world: World) -> None:
    """A change was lost. The clock of Redis steps back by an hour, and the window that lacks the change lives on."""
    world.exact = False
    world.send().finish()
    world.edit(1).step().lose()
    world.step_clock(-HOUR_MS)
    world.wait(TTL_MS + 100)
    world.read().finish()


def no_command_from_the_future(world: World) -> None:
    """A send arrives long after it began. The clock of Redis has stepped back, so it does not look late."""
    world.exact = False
    send = world.send().step()
    world.edit(1, process=1).finish()
    world.step_clock(-HOUR_MS)
    world.wait(TTL_MS + 100)
    world.evict()
    send.finish()
    world.read().finish()


def no_late_message(world: World) -> None:
    """The first version of a message arrives after the entry with its second version has expired."""
    world.send().finish()
    message, began = world.messages[0], world.redis_now()
    world.wait(GRACE_MS + 1)
    world.redis.delete(world.message_key(1))
    assert not world.call(world.processes[0].cache.put_message(message, began))


def no_late_change_of_a_message(world: World) -> None:
    """The same for a change."""
    world.send().finish()
    message, began = world.messages[0], world.redis_now()
    world.wait(GRACE_MS + 1)
    world.redis.delete(world.message_key(1))
    assert not world.call(world.processes[0].cache.put_changed_message(message, began))


def a_send_never_replaces(world: World) -> None:
    """The delayed first version of a message does not replace the second one."""
    world.send().finish()
    first, began = world.messages[0], world.redis_now()
    world.edit(1).finish()
    assert not world.call(world.processes[0].cache.put_message(first, began))
    assert world.redis.get(world.message_key(1)) == world.messages[0].json


Story = Callable[[World], None]
# Name of the guard: its story, the rule in its line, and what replaces the rule when the guard is removed.
GUARDS: dict[str, tuple[Story, str, str]] = {
    "dropping after a late send": (dropping_after_a_late_send, "if late then", "if false then"),
    "trusting no window older than an outage": (
        trusting_no_window_older_than_an_outage,
        "window.born >= trusted_since",
        "true",
    ),
    "a grace period of TTL after each write": (
        a_grace_period_after_each_write,
        "redis.call('PTTL', key) < grace_ms",
        "false",
    ),
    "the fence of a change": (the_fence_of_a_change, "window.fence = now", ""),
    "the fence against a late fill": (
        the_fence_against_a_late_fill,
        "if began <= window.fence then",
        "if false then",
    ),
    "the age of a fill": (the_age_of_a_fill, "if late then", "if false then"),
    "widening only an existing window": (
        widening_only_an_existing_window,
        "if widen then",
        "if false then",
    ),
    "a window as old as what it knows": (
        a_window_as_old_as_what_it_knows,
        "start(window, began,",
        "start(window, now,",
    ),
    "no start on a fence": (
        no_start_on_a_fence,
        "if window.exists and window.count == 0 then",
        "if false then",
    ),
    "no gap": (
        no_gap,
        "if last < window.oldest - 1 or first > window.newest + 1 then",
        "if false then",
    ),
    "the higher version wins": (
        the_higher_version_wins,
        "if kept and given and version_of(given) <= version_of(kept) then",
        "if false then",
    ),
    "joined, as old as the older of the two": (
        joined_as_old_as_the_older,
        "math.min(window.born, began)",
        "began",
    ),
    "no fill over a window that others trust": (
        no_fill_over_a_window_that_others_trust,
        "if window.is_distrusted then",
        "if false then",
    ),
    "no shared query over a window that others trust": (
        no_shared_query_over_a_window_that_others_trust,
        "window.is_distrusted and now or window.fence",
        "window.fence",
    ),
    "no window from the future": (
        no_window_from_the_future,
        "window.born > now or window.fence > now",
        "false",
    ),
    "no command from the future": (no_command_from_the_future, " or began > now", ""),
    "no late message": (no_late_message, "if late then", "if false then"),
    "no late change of a message": (no_late_change_of_a_message, "if late then", "if false then"),
    "a send never replaces": (a_send_never_replaces, ", 'NX'", ""),
}


def without(guard: str) -> str:
    """Return the scripts without this guard."""
    (line,) = [line for line in SOURCE.splitlines() if line.endswith(f"-- guard: {guard}")]
    _, rule_text, replacement = GUARDS[guard]
    assert rule_text in line
    return SOURCE.replace(line, line.replace(rule_text, replacement))


def test_each_guard_has_its_story() -> None:
    """Every line of the scripts that is marked as a guard has a story."""
    assert sorted(GUARDS) == sorted(
        line.partition("-- guard: ")[2] for line in SOURCE.splitlines() if "-- guard: " in line
    )


@pytest.fixture
def play(client: redis.Redis) -> Callable[..., None]:
    """Return a function that plays a story in a new world."""

    def play_story(story: Callable[[World], None], source: str = SOURCE) -> None:
        world = World(client, source)
        try:
            story(world)
        finally:
            world.close()

    return play_story


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(guard: str, play: Callable[..., None]) -> None:
    """The schedule of a guard is harmless with it, and violates a check once that one line is removed."""
    story = GUARDS[guard][0]
    play(story)
    with pytest.raises(AssertionError):
        play(story, without(guard))


# --- the guards of a shared query -----------------------------------------------------------------------------------------


def a_change_since_the_query(world: World) -> None:
    """A reader finds the query of another reader in flight, and a change came after the query."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    world.read().step(2)
    world.edit(1, process=1).finish()
    world.read().finish()


def an_outage_since_the_query(world: World) -> None:
    """The change was lost, and the process has noticed an outage since the query."""
    world.exact = False
    world.send().finish()
    world.wait(TTL_MS + 1)
    world.read().step(2)
    world.edit(1, process=1).step().lose()
    world.processes[0].short_outage()
    world.read().finish()


def a_fence_that_has_expired(world: World) -> None:
    """The query takes so long that the fence of the change has expired with its window."""
    world.send().finish()
    world.wait(TTL_MS + 1)
    quick = world.read(process=1).step()
    world.wait(GRACE_MS // 2)
    world.read().step(2)
    quick.finish()
    world.wait(TTL_MS - GRACE_MS - GRACE_MS // 2 - 100)
    world.edit(1, process=1).finish()
    world.wait(GRACE_MS + 150)
    world.read().finish()


SHARING = {
    "the fence": (a_change_since_the_query, "max(snapshot.fence, trusted_since)", "trusted_since"),
    "trusted_since": (
        an_outage_since_the_query,
        "max(snapshot.fence, trusted_since)",
        "snapshot.fence",
    ),
    "the age": (
        a_fence_that_has_expired,
        " and snapshot.token - self.token <= grace_period_ms * 1000",
        "",
    ),
}


def may_serve_without(rule_text: str, replacement: str) -> Any:
    """Return `SharedQuery.may_serve` without one part of its rule."""
    source = textwrap.dedent(inspect.getsource(chatlab.history.SharedQuery.may_serve))
    assert source.count(rule_text) == 1
    names: dict[str, Any] = {"WindowSnapshot": WindowSnapshot}
    exec(source.replace(rule_text, replacement), names)  # noqa: S102 - our own source
    return names["may_serve"]


@pytest.mark.parametrize("guard", SHARING)
def test_each_guard_of_a_shared_query_is_needed(
    guard: str, play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers share a query only if it cannot lack a change that they must see."""
    story, rule_text, replacement = SHARING[guard]
    play(story)
    monkeypatch.setattr(
        chatlab.history.SharedQuery, "may_serve", may_serve_without(rule_text, replacement)
    )
    with pytest.raises(AssertionError):
        play(story)


def a_change_between_probe_and_return(world: World) -> None:
    """A window is born after the probe, and misses a change before the breaker closes."""
    world.exact = False
    world.send().finish()
    world.wait(TTL_MS + 1)
    world.processes[0].lose_redis()
    world.processes[0].probe()
    world.read(process=1).finish()
    world.edit(1).finish()
    world.processes[0].find_redis()
    world.read().finish()


def test_a_missed_window_is_fenced_before_anything_else(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the breaker closes, the process fences the windows that it missed before it sends anything else."""
    play(a_change_between_probe_and_return)
    monkeypatch.setattr(CacheNode, "fence_missed_windows", lambda _: None)
    with pytest.raises(AssertionError, match="stale messages"):
        play(a_change_between_probe_and_return)


def a_change_that_its_process_gave_up(world: World) -> None:
    """A change gets no reply in time because its process was late. The circuit stays closed."""
    world.send().finish()
    world.edit(1).step()
    world.processes[0].give_up()
    world.read(process=1).finish()
    world.read().finish()


def a_fence_that_its_process_gave_up(world: World) -> None:
    """The fence for a missed change gets no reply either. Its process then trusts no window."""
    world.send().finish()
    world.exact = False  # for the other process
    world.edit(1).step()
    with world.silence():
        world.processes[0].give_up()
    world.processes[0].required = {1: 2}
    world.read().finish()


def test_a_write_that_was_given_up_is_fenced(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose write missed a window while the circuit stayed closed sends a fence at once."""
    play(a_change_that_its_process_gave_up)
    monkeypatch.setattr(CacheNode, "fence_missed_windows", lambda _: None)
    with pytest.raises(AssertionError, match="stale messages"):
        play(a_change_that_its_process_gave_up)


def test_no_window_is_trusted_until_a_missed_write_is_fenced(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the fence misses the window too, the process that knows of it does not show the window."""
    play(a_fence_that_its_process_gave_up)
    monkeypatch.setattr(RedisClock, "distrust", lambda _: None)
    with pytest.raises(AssertionError, match="stale messages"):
        play(a_fence_that_its_process_gave_up)


def a_step_back_by_less_than_a_ttl(world: World) -> None:
    """A change was lost. After a short step back, the window that lacks it is not from the future for long."""
    world.exact = False
    world.send().finish()
    world.edit(1).step().lose()
    world.step_clock(-TTL_MS // 2)
    world.wait(TTL_MS + 100)
    world.read().finish()


def test_no_window_is_trusted_that_may_be_from_before_a_step(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the clock of Redis has caught up, a process that noticed the step trusts no window."""
    play(a_step_back_by_less_than_a_ttl)
    monkeypatch.setattr(ClockSteps, "last_repeated_time", lambda *_: 0)
    with pytest.raises(AssertionError, match="stale messages"):
        play(a_step_back_by_less_than_a_ttl)


@pytest.mark.slow
def test_random_search_finds_a_missing_guard(client: redis.Redis) -> None:
    """The random search finds a violation once a guard is missing."""

    class Unguarded(Interleavings):
        source = without("the higher version wins")

    with pytest.raises(AssertionError, match="stale messages"):
        search(Unguarded, client, 600)


# --- the scripts one by one -----------------------------------------------------------------------------------------------

CONVERSATION = Conversation("alice:bob")


@pytest.fixture
def world(client: redis.Redis) -> Iterator[World]:
    """Return a new world."""
    world = World(client)
    yield world
    world.close()


def fill(
    world: World, messages: list[Message], token: int | None = None, *, widen: bool = False
) -> str | None:
    """Fill the window with messages that were read now, or after `token`."""
    answer: str | None = world.call(
        world.processes[0].cache.fill_window(
            CONVERSATION, token or world.redis_now(), messages, widen=widen
        )
    )
    world.check_key()
    return answer


def held(world: World, page: Page | None = None) -> list[int]:
    """Return the seqs of a page that are in the window."""
    snapshot = world.call(world.processes[0].cache.snapshot_window(CONVERSATION, page or Page()))
    return [message["seq"] for message in json.loads(b"[" + snapshot.joined + b"]")]


def test_a_fill_returns_its_outcome(world: World) -> None:
    """The script replies with one word, and only `filled` and `joined` change the window."""
    messages = world.save(9)
    assert fill(world, messages[4:6], widen=True) == "nothing to widen"
    assert fill(world, messages[4:6]) == "filled"
    assert fill(world, messages[2:4], widen=True) == "joined"
    assert fill(world, messages[5:7]) == "joined"
    assert fill(world, messages[8:9]) == "apart"
    assert fill(world, messages[0:1]) == "apart"
    assert fill(world, messages[1:2], world.redis_now() - (GRACE_MS + 50) * 1000) == "old"
    token = world.redis_now()
    world.edit(1).finish()
    assert fill(world, messages[1:2], token) == "fenced"
    assert held(world) == [3, 4, 5, 6, 7]


def test_a_window_keeps_the_newest_messages_that_fit(client: redis.Redis) -> None:
    """A window keeps the newest messages that fit, from whichever side they come."""
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
    """A window of the largest allowed size is filled and merged, although the stack of Lua cannot hold it at once."""
    world = World(client, window_size=10_000)
    messages = world.save(9_100)
    assert fill(world, messages[:9_000]) == "filled"
    assert fill(world, messages[8_900:]) == "joined"
    assert len(held(world)) == 9_100
    world.close()


EDGES = [None, 0, 1, 2, 3, 5, 7, 8, 9]


@pytest.mark.parametrize("limit", [None, 1, 2, 5, 2**53 - 1])
def test_a_snapshot_has_the_part_of_the_page_that_is_in_the_window(
    world: World, limit: int | None
) -> None:
    """For each limit, before and after, the snapshot holds its part of the page and knows if that is all of it."""
    fill(world, world.save(7)[2:])
    for before, after in itertools.product([*EDGES, 2**53 - 1], repeat=2):
        page = Page(limit=limit, before=before, after=after)
        snapshot = world.call(world.processes[0].cache.snapshot_window(CONVERSATION, page))
        wanted = selected(page, 7)
        assert list(range(snapshot.lowest, snapshot.highest + 1)) == wanted
        assert held(world, page) == [seq for seq in wanted if seq >= 3]
        assert snapshot.covers_page == all(seq >= 3 for seq in wanted)


FOREIGN = {
    "a string": ("SET", "x"),
    "a hash": ("HSET", "field", "x"),
    "another list": ("RPUSH", "x", "y"),
    "a damaged header": ("RPUSH", "1:2:", "{}"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("write", ["append_to_window", "change_in_window", "fill"])
def test_a_foreign_value_is_replaced(world: World, kind: str, write: str) -> None:
    """A foreign value under the key of a window reads as a miss, and the next write or fill replaces it."""
    (message,) = world.save(1)
    command, *value = FOREIGN[kind]
    world.command((command, world.key, *value))
    assert held(world) == []
    if write == "fill":
        assert fill(world, [message]) == "filled"
    else:
        assert world.call(getattr(world.processes[0].cache, write)(message, world.redis_now()))
    world.check_key()
    assert held(world) == (
        [] if write == "change_in_window" else [1]
    )  # a change alone leaves a fence


def test_the_shortest_ttl(world: World) -> None:
    """With the shortest TTL, 0.1 s, the grace period is 20 ms, and no key has a longer TTL."""
    cache = world.processes[0].cache
    world.call(cache.reconfigure(100))
    assert grace_period_ms(100) == 20
    (message,) = world.save(1)
    assert world.call(cache.put_message(message, world.redis_now()))
    assert -1 != world.redis.pttl(world.message_key(1)) <= 100
    began = world.redis_now()
    assert world.call(cache.append_to_window(message, began))
    assert began // 1000 + 99 <= world.expires_ms <= began // 1000 + 100


def test_an_empty_conversation(world: World) -> None:
    """Reading a conversation without messages leaves no key."""
    world.read().finish()
    assert not world.redis.exists(world.key)


def test_a_changed_message_is_cached_in_its_highest_version(world: World) -> None:
    """If two changes arrive in the wrong order, the entry holds the later one, with a new TTL."""
    cache = world.processes[0].cache
    world.send().finish()
    second = world.call(cache.message(world.messages[0].id))
    third = msgspec.structs.replace(second, version=3)
    world.redis.pexpire(world.message_key(1), GRACE_MS)
    assert world.call(cache.put_changed_message(third, world.redis_now()))
    assert not world.call(cache.put_changed_message(second, world.redis_now()))
    assert world.redis.get(world.message_key(1)) == third.json
    assert GRACE_MS < world.redis.pttl(world.message_key(1)) <= TTL_MS


def test_a_read_of_one_message_shows_a_change_that_its_entry_lacks(world: World) -> None:
    """A change that comes after the grace period leaves the older entry, but reads show the change."""
    world.send().finish()
    (first,), key = world.messages.copy(), world.message_key(1)
    world.redis.pexpire(key, HOUR_MS)  # it outlives this test on a slow machine too
    edit = world.edit(1)
    world.wait(GRACE_MS + 1)
    edit.finish()
    assert world.redis.get(key) == first.json
    shown = world.call(world.processes[0].service.read_one(BOB, ALICE, first.id))
    assert (shown.version, shown.json) == (2, world.messages[0].json)
    world.redis.delete(key)


def test_each_kind_of_key_can_have_its_own_ttl(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Ttls.of` alone decides how long entries and windows live, and the shorter TTL decides the grace period."""
    monkeypatch.setattr(Ttls, "of", lambda _: Ttls(entry_ms=HOUR_MS, window_ms=TTL_MS))
    with contextlib.closing(World(client)) as world:
        world.send().finish()
        key = world.message_key(1)
        assert TTL_MS < client.pttl(key) <= HOUR_MS
        client.pexpire(key, TTL_MS)
        world.edit(1).finish()
        assert TTL_MS < client.pttl(key) <= HOUR_MS
        world.check_key()  # the window expires after its own TTL
        assert world.processes[0].cache.grace_period_ms == GRACE_MS
        client.delete(key)
