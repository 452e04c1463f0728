"""Programs that are killed or overtaken between two steps."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from chatlab.lab.checks import BLANK, CheckResult, check, correct
from chatlab.lab.stepped_redis import record_steps, run_killed, run_overtaken
from chatlab.local.engines import Engines

Program = Callable[[redis.Redis], Any]
NO_EXPIRY, GONE = -1, -2


def two_commands(r: redis.Redis) -> None:
    """Set a value, and then its expiry."""
    r.set("lab:key", "x")
    r.expire("lab:key", 60)


def send_both(pipe: Pipeline) -> None:
    """Set a value and its expiry with this pipeline."""
    pipe.set("lab:key", "x")
    pipe.expire("lab:key", 60)
    pipe.execute()


def pipeline(r: redis.Redis) -> None:
    """Send both commands in one round trip."""
    send_both(r.pipeline(transaction=False))


def transaction(r: redis.Redis) -> None:
    """Do both in one step."""
    send_both(r.pipeline(transaction=True))


def watching(r: redis.Redis) -> None:
    """Change a value, unless it changes meanwhile."""
    with r.pipeline() as pipe:
        pipe.watch("lab:key")  # type: ignore[no-untyped-call]
        pipe.get("lab:key")
        pipe.multi()
        pipe.set("lab:key", "changed", ex=60)
        pipe.execute()


@pytest.fixture
def r(engines: Engines) -> Iterator[redis.Redis]:
    """Return a client as the notebooks have it. The key of this module is deleted afterwards."""
    with redis.Redis.from_url(engines.redis.url, decode_responses=True) as client:
        yield client
        client.delete("lab:key")


def test_steps_are_what_redis_runs_without_interruption(r: redis.Redis) -> None:
    """A transaction is one step. The commands of a pipeline without one are a step each."""
    assert record_steps(r, two_commands) == ["SET lab:key x", "EXPIRE lab:key 60"]
    assert record_steps(r, pipeline) == ["SET lab:key x", "EXPIRE lab:key 60"]
    assert record_steps(r, transaction) == ["MULTI; SET lab:key x; EXPIRE lab:key 60; EXEC"]


@pytest.mark.parametrize("program", [two_commands, pipeline])
def test_a_program_that_is_killed_between_its_steps_leaves_a_leak(
    r: redis.Redis, program: Program
) -> None:
    """The steps before the kill have happened, the others have not."""
    assert run_killed(r, 0, program)
    assert r.ttl("lab:key") == GONE
    assert run_killed(r, 1, program)
    assert r.ttl("lab:key") == NO_EXPIRY
    assert not run_killed(r, 2, program)
    assert r.ttl("lab:key") > 0


def test_a_program_that_is_overtaken_goes_on_after_the_other_one(r: redis.Redis) -> None:
    """A transaction that watches a key notices this, and fails."""
    r.set("lab:key", "a")
    with pytest.raises(WatchError):
        run_overtaken(r, 2, watching, lambda: r.set("lab:key", "b"))
    assert r.get("lab:key") == "b"
    run_overtaken(r, 0, two_commands, lambda: r.set("lab:key", "b"))
    assert r.get("lab:key") == "x"
    run_overtaken(r, 5, two_commands, lambda: r.set("lab:key", "b"))
    assert r.get("lab:key") == "b"


async def test_a_function_without_a_body_is_a_blank_answer() -> None:
    """So is the value `...`. Any other function is checked."""

    @check
    async def accepts(_answer: Any) -> CheckResult:
        return correct("Checked.")

    def blank(r: Any) -> Any: ...

    async def async_blank(r: Any) -> Any: ...

    kinds = [(await accepts(answer)).kind for answer in (..., blank, async_blank, lambda: 1, 5)]
    assert [kind == BLANK for kind in kinds] == [True, True, True, False, False]
