"""Run the `chatlab` command with limits that a slow machine does not exceed.

With its usual limits, the service answers 503 when MongoDB does not reply within 2 s, for example. On a machine that stalls, this changes the
result of a request. Tests that are not about these limits start the service with this program instead. The limits of Redis are a setting.
"""

import chatlab.run.server_only  # noqa: I001 - before python-socketio is imported
import chatlab.protect.rate_limit
import chatlab.sessions
import chatlab.web.socket_server
import generous
import shard_keys
from waiting import PATIENT_LIMIT_S

from chatlab.cli import main


def raise_limits() -> None:
    """Replace each limit in the module that reads it."""
    generous.set_mongodb_limit(PATIENT_LIMIT_S)
    for module, name, limit in (
        (chatlab.sessions, "TOKEN_CACHE_S", PATIENT_LIMIT_S),
        (chatlab.protect.rate_limit, "WINDOW_S", PATIENT_LIMIT_S),
        (chatlab.web.socket_server, "PING_TIMEOUT_S", PATIENT_LIMIT_S),
    ):
        assert hasattr(module, name), f"{module.__name__}.{name} has a new name; change it here too"
        setattr(module, name, type(getattr(module, name))(limit))


if __name__ == "__main__":
    shard_keys.watch()
    raise_limits()
    main()
