"""The circuit breaker: how often it probes and what it logs."""

import asyncio
from collections.abc import Callable

import pytest
from waiting import wait_until

from chatlab.protect import log_limit
from chatlab.protect.breaker import CircuitBreaker


class Server:
    """A server that is up or down. `pauses` are those between probes, which take no time here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_up, self.pauses = False, list[float]()
        self.error: Exception = ConnectionError("refused")
        self.breaker = CircuitBreaker("Redis", self.probe)
        self._sleep = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def probe(self) -> None:
        if not self.is_up:
            raise self.error

    async def sleep(self, seconds: float) -> None:
        if seconds in (0.25, 0.5, 1.0):
            self.pauses.append(seconds)
            seconds = 0
        await self._sleep(seconds)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a server that is down."""
    return Server(monkeypatch)


async def reach(look: Callable[[], object], what: str) -> None:
    """Wait until `look` returns something true."""
    await wait_until(look, what)


async def test_the_pauses_between_probes_double_up_to_a_second(server: Server) -> None:
    """The first probe comes at once, the next ones after 0.25 s, 0.5 s, and every second."""
    server.breaker.trip(ConnectionError())
    assert server.pauses == []
    await reach(lambda: len(server.pauses) >= 5, "five pauses")
    assert server.pauses[:5] == [0.25, 0.5, 1.0, 1.0, 1.0]
    server.is_up = True
    await reach(lambda: not server.breaker.is_open, "the circuit to close")


async def test_a_circuit_that_opens_again_at_once_is_probed_less_often(server: Server) -> None:
    """If requests fail although each probe succeeds, there is one outage a second at most."""
    server.is_up = True
    for _ in range(5):
        server.breaker.trip(ValueError("a command that the probe does not use"))
        await reach(lambda: not server.breaker.is_open, "the circuit to close")
    assert server.pauses == [0.25, 0.5, 1.0, 1.0]


async def test_each_kind_of_failure_is_logged_once_a_minute(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another kind is logged at once. An outage that was not logged is, if it lasts longer than a minute."""
    server.is_up = True
    for error in (ValueError, ValueError, TimeoutError, ValueError):
        server.breaker.trip(error("failed"))
        await reach(lambda: not server.breaker.is_open, "the circuit to close")
    opened = [line for line in caplog.messages if "is unavailable" in line]
    assert ["ValueError" in line for line in opened] == [True, False]
    assert sum("is available again" in line for line in caplog.messages) == 2
    server.is_up = False
    server.breaker.trip(ValueError("failed"))
    monkeypatch.setattr(log_limit, "INTERVAL_S", 0.0)
    await reach(lambda: caplog.text.count("is unavailable") == 3, "a line about the outage")
    await server.breaker.close()


async def test_a_new_cause_is_logged_during_an_outage(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that comes back with an error answers again, so the log says what is wrong now, once."""

    def explain(error: BaseException) -> tuple[bool, str]:
        return isinstance(error, ValueError), f"has the trouble {error}"

    breaker = CircuitBreaker("Redis", server.probe, explain=explain)
    breaker.trip(ConnectionError("gone"))
    await reach(lambda: len(server.pauses) >= 3, "three probes without an answer")
    server.error = ValueError("read-only")
    await reach(lambda: "read-only" in caplog.text, "the new cause")
    probes = len(server.pauses)
    await reach(lambda: len(server.pauses) >= probes + 3, "three more probes")
    assert [line.partition(" it ")[2] for line in caplog.messages] == [
        "has the trouble gone; its circuit breaker is open",
        "has the trouble read-only; its circuit breaker is open",
    ]
    await breaker.close()
