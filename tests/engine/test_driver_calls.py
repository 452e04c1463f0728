"""Driver calls: cancelling a caller does not cancel its call, a stuck driver is noticed, and no MongoDB call bypasses this."""

import ast
import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase

import chatlab
from chatlab.connections.driver_calls import CallOverdueError, DriverCalls
from chatlab.connections.mongo import MongoDatabase
from chatlab.errors import StoreUnavailable
from chatlab.local.engines import Engines

PACKAGE = Path(chatlab.__file__).parent


async def test_cancelling_a_caller_does_not_cancel_the_call() -> None:
    """The caller gets its CancelledError at once; the call continues, and releases its slot when it returns."""
    calls, slots, answer = (
        DriverCalls(limit_s=60),
        asyncio.Semaphore(0),
        asyncio.get_running_loop().create_future(),
    )
    caller = asyncio.create_task(calls.run(answer, slots=slots))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (calls.under_way, answer.cancelled(), slots.locked()) == (1, False, True)
    answer.set_result("late")
    await slots.acquire()
    assert calls.under_way == 0


async def test_an_error_reaches_the_caller() -> None:
    """An exception of the driver is raised to the caller."""

    async def fails() -> None:
        raise ValueError("from the driver")

    with pytest.raises(ValueError, match="from the driver"):
        await DriverCalls(limit_s=60).run(fails())


async def test_a_call_that_does_not_return_is_counted() -> None:
    """A caller does not wait for a stuck driver, and the call is counted until it returns."""
    calls, answer = DriverCalls(limit_s=0.01), asyncio.get_running_loop().create_future()
    with pytest.raises(CallOverdueError):
        await calls.run(answer)
    assert (calls.under_way, calls.overdue) == (1, 1)
    answer.set_result(None)
    await calls.drain()
    assert (calls.under_way, calls.overdue) == (0, 0)


async def test_a_stuck_driver_is_an_outage(
    engines: Engines, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that neither returns nor fails raises StoreUnavailable and opens the breaker, so `/readyz` answers 503."""
    monkeypatch.setattr("chatlab.connections.mongo.CALL_LIMIT_S", 0.05)
    mongo = MongoDatabase(engines.mongo.url, space, _never_migrated)
    with pytest.raises(StoreUnavailable):
        await mongo.execute(_never())
    assert mongo.breaker.is_open
    with pytest.raises(StoreUnavailable):
        await mongo.ping()
    assert mongo.calls.overdue == 1
    await mongo.close()


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


async def _never_migrated(_mongo: MongoDatabase) -> None:
    await _never()


# --- no call bypasses the helper -------------------------------------------------------------------------------------------------

COROUTINES = {
    name
    for kind in (AsyncCollection, AsyncDatabase, AsyncCursor, AsyncCommandCursor)
    for name, member in inspect.getmembers(kind, inspect.iscoroutinefunction)
    if not name.startswith("_")
}
SHIELDS = {"execute", "run"}
OUR_OBJECTS = {
    "breaker",
    "messages",
    "mongo",
    "summaries",
    "_secondaries",
}  # their `close` is ours, not that of pymongo


def bypassing(source: str) -> list[str]:
    """Return each call of a pymongo coroutine that is awaited where a cancellation can reach it."""
    tree = ast.parse(source)
    shielded = {
        id(inner) for call in _calls(tree) if _method(call) in SHIELDS for inner in ast.walk(call)
    }
    shielded_functions = {
        _method(inner)
        for call in _calls(tree)
        if _method(call) in SHIELDS
        for inner in call.args
        if isinstance(inner, ast.Call)
    }
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.AsyncFunctionDef) and function.name not in shielded_functions:
            awaited = [
                call
                for node in ast.walk(function)
                if isinstance(node, ast.Await)
                for call in _calls(node)
            ]
            found += [
                ast.unparse(call)
                for call in awaited
                if _is_pymongo(call) and id(call) not in shielded
            ]
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(node: ast.AST) -> str:
    """Return the last name of `a.b` or `b`: the function of a call, or the object of an attribute."""
    return (
        node.attr
        if isinstance(node, ast.Attribute)
        else node.id
        if isinstance(node, ast.Name)
        else ""
    )


def _method(call: ast.Call) -> str:
    return _name(call.func)


def _is_pymongo(call: ast.Call) -> bool:
    is_method = isinstance(call.func, ast.Attribute) and _name(call.func.value) not in OUR_OBJECTS
    return is_method and _method(call) in COROUTINES


# Folders, and a module, that are not part of a running service.
OUTSIDE = {"lab", "demo", "bench", "local", "sharding.py"}
MONGODB_USERS = [
    path
    for path in PACKAGE.rglob("*.py")
    if (path.parent.name == "store" or "pymongo" in path.read_text(encoding="utf-8"))
    and not OUTSIDE & set(path.relative_to(PACKAGE).parts)
]


@pytest.mark.parametrize("path", MONGODB_USERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_call_to_mongodb_bypasses_the_helper(path: Path) -> None:
    """Every awaited pymongo call is an argument of `execute` or `run`, or is in a function whose call is such an argument."""
    assert bypassing(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "async def f(self):\n    return await self._messages.find_one({})",
        "async def f(self):\n    return await self._messages.find({}).to_list()",
        "async def f(self):\n    await self._client.close()",
        "async def f(self):\n    await self._mongo.execute(self._users.insert_one({}))\n    await self._users.delete_one({})",
    ],
)
def test_a_bypass_is_found(source: str) -> None:
    """The check above can fail."""
    assert len(bypassing(source)) == 1
