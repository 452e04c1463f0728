"""Which connection is closed when there are too many."""

from typing import Any

import pytest

from chatlab.settings import load_settings
from chatlab.web.connection_limits import ConnectionLimits, Reason, RemoteClient
from chatlab.web.descriptors import HEALTH_CHECKS
from chatlab.web.stopping import Drain

MOST = 40


class FakeConnection:
    """A connection of one address that remembers why it was closed."""

    def __init__(
        self, limits: ConnectionLimits, address: str, *, authenticated: bool = False
    ) -> None:
        self.remote, self.closed_because = RemoteClient(limits), ""
        self.remote.address = address
        connection: Any = self
        limits.add(connection)
        if authenticated:
            self.remote.authenticate()

    def give_up(self, reason: Reason) -> None:
        assert not self.closed_because, "closed twice"
        self.closed_because = reason.name


@pytest.fixture
def limits() -> ConnectionLimits:
    """Limits of 40 connections in all, and 10 without a token from one address."""
    return ConnectionLimits(load_settings(connections_per_address=10), MOST, Drain(0))


def reasons(connections: list[FakeConnection]) -> list[str]:
    """Return why each connection was closed; an empty string if it is open."""
    return [one.closed_because for one in connections]


def test_the_oldest_connection_of_an_address_makes_room(limits: ConnectionLimits) -> None:
    """Connections that have shown a token stay, however old they are."""
    old = FakeConnection(limits, "a", authenticated=True)
    attack = [FakeConnection(limits, "a") for _ in range(12)]
    assert reasons([old, *attack]) == [""] + ["ADDRESS"] * 2 + [""] * 10


def test_the_address_with_the_most_connections_makes_room(limits: ConnectionLimits) -> None:
    """An attacker with many connections loses one for each new client."""
    users = [FakeConnection(limits, "users", authenticated=True) for _ in range(MOST - 12)]
    bystander = FakeConnection(limits, "bystander")
    attack = [FakeConnection(limits, "attacker") for _ in range(10)]
    newcomers = [FakeConnection(limits, f"new {number}") for number in range(3)]
    assert reasons([*users, bystander, *newcomers]) == [""] * (MOST - 12 + 1 + 3)
    assert reasons(attack) == ["TOTAL"] * 2 + [""] * 8


def test_users_are_never_closed_for_others(limits: ConnectionLimits) -> None:
    """When all connections have shown a token, a new one is refused. Health checks are answered."""
    users = [FakeConnection(limits, "users", authenticated=True) for _ in range(MOST)]
    assert FakeConnection(limits, "late").closed_because == "TOTAL"
    checks = [FakeConnection(limits, "127.0.0.1") for _ in range(HEALTH_CHECKS // 2)]
    assert reasons([*users, *checks]) == [""] * (MOST + HEALTH_CHECKS // 2)


def test_closed_connections_make_room(limits: ConnectionLimits) -> None:
    """A connection that has gone does not count, and its address is forgotten."""
    for _ in range(3 * MOST):
        connection: Any = FakeConnection(limits, "a")
        limits.remove(connection)
        limits.remove(connection)
    assert reasons([FakeConnection(limits, "a") for _ in range(10)]) == [""] * 10
