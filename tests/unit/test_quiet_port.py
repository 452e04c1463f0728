"""A port that is about to close: nothing new reaches it, and nothing that has is lost."""

import errno
import select
import socket
import sys

import pytest
from waiting import LIMIT_S

from chatlab.run.quiet_port import drop_new_connections

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this filter")
@pytest.mark.parametrize("family", LOOPBACK)
def test_connections_are_accepted_or_refused_but_never_reset(family: socket.AddressFamily) -> None:
    """One that was there before works until its end. A later one is refused when the port closes."""
    with socket.create_server((LOOPBACK[family], 0), family=family) as listener:
        address = listener.getsockname()[:2]
        early = socket.create_connection(address, LIMIT_S)
        early.sendall(b"request")
        drop_new_connections(listener)
        late = socket.socket(family)
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.connect(address)
        accepted, _ = listener.accept()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()  # the later one is not there
    with early, accepted, late:
        assert accepted.recv(100) == b"request"
        accepted.sendall(b"response")
        assert early.recv(100) == b"response"
        assert select.select([], [late], [], LIMIT_S)[1]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
