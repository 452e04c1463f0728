"""The rooms of sockets: a disconnection leaves what the library would leave, without a look at other sockets."""

from types import SimpleNamespace
from typing import Any

import pytest
import socketio

from chatlab.web.socket_server import RoomsOfSockets


class Watched(dict[Any, Any]):
    """A room that fails when somebody looks into it."""

    def __contains__(self, key: object) -> bool:
        raise AssertionError("a look at the room of another socket")


async def manager_with_sockets(kind: type[Any]) -> Any:
    """Return a manager with three sockets, of which two share a room."""
    manager = kind()
    ids = iter(["s1", "s2", "s3"])
    manager.set_server(
        SimpleNamespace(
            eio=SimpleNamespace(generate_id=lambda: next(ids)), packet_class=socketio.packet.Packet
        )
    )
    for number, user in enumerate(("ann", "ann", "bob"), 1):
        sid = await manager.connect(f"e{number}", "/")
        manager.basic_enter_room(sid, "/", user)
    return manager


@pytest.mark.parametrize("order", [["s1", "s2", "s3"], ["s3", "s1", "s2"], ["s2", "s2"]])
async def test_a_disconnection_leaves_the_same_rooms_as_the_library(order: list[str]) -> None:
    """After each disconnection all state is equal, also after a repeated one."""
    ours = await manager_with_sockets(RoomsOfSockets)
    theirs = await manager_with_sockets(socketio.AsyncManager)
    for sid in order:
        for manager in (ours, theirs):
            if manager.is_connected(sid, "/"):
                manager.pre_disconnect(sid, "/")
            manager.basic_disconnect(sid, "/")
        assert ours.rooms == theirs.rooms
        assert ours.pending_connect == theirs.pending_connect
        assert ours.pending_disconnect == theirs.pending_disconnect
        assert not ours._rooms_of.get(("/", sid))


async def test_a_disconnection_does_not_look_at_other_rooms() -> None:
    """Its cost does not depend on the number of users."""
    manager = await manager_with_sockets(RoomsOfSockets)
    manager.rooms["/"]["bob"] = Watched(manager.rooms["/"]["bob"])
    manager.basic_disconnect("s1", "/")
    assert set(manager.rooms["/"]["ann"]) == {"s2"}
