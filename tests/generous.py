"""Run the `chatlab` command, which waits for MongoDB as long as a test wants.

With its usual limit, the service answers 503 when MongoDB does not reply within 2 s. On a busy machine with a slow disk, that happens. Tests
that are not about this limit start the service with this program.
"""

import os

from waiting import MONGODB_LIMIT

import chatlab.connections.mongo


def mongodb_limits(limit_s: float) -> dict[str, float]:
    """Return the limits in chatlab.connections.mongo: for one request, and for a driver that exceeds it."""
    return {"REQUEST_TIMEOUT_MS": int(limit_s * 1000), "CALL_LIMIT_S": limit_s + 1}


def set_mongodb_limit(limit_s: float) -> None:
    """Replace these limits."""
    vars(chatlab.connections.mongo).update(mongodb_limits(limit_s))


def set_limit_of_environment() -> None:
    """Replace the limit if the environment has one."""
    if limit := os.environ.get(MONGODB_LIMIT):
        set_mongodb_limit(float(limit))


if __name__ in ("__main__", "__mp_main__"):  # also in each worker
    set_limit_of_environment()
if __name__ == "__main__":
    from chatlab.cli import main

    main()
