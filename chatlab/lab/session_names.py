"""Reserve a name for a session's database and keys that no other running session uses.

Names are unique within one data folder.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from chatlab.errors import EngineError

MAX_SESSIONS = 100  # of one notebook at the same time


def reserve_name(name: str, folder: Path) -> tuple[str, int]:
    """Return a free name and the file descriptor of its lock.

    The name is `lab_00`, or `lab_00_2` while another kernel uses that. The caller keeps the lock
    open, and the service inherits it: a name is free again when both the kernel and its service
    have ended.
    """
    if not re.fullmatch(r"[a-z0-9_-]{1,20}", name):
        raise ValueError(
            f"The session name {name!r} is invalid: use 1 to 20 of the characters a-z, 0-9, _ and -."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, MAX_SESSIONS + 1):
        reserved = f"lab_{name}" if number == 1 else f"lab_{name}_{number}"
        lock = os.open(folder / f"{reserved}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return reserved, lock
    raise EngineError(
        f"{MAX_SESSIONS} sessions named {name!r} are running already.", "shut down some kernels"
    )


def remove_abandoned(folder: Path) -> None:
    """Delete the engine data of sessions that were killed.

    Such a folder has a name that no session has locked, and no supervisor runs in it.
    """
    for data in folder.glob("lab_*"):
        if data.is_dir():
            with _lock(folder / f"{data.name}.lock") as no_session, _lock(data / "lock") as stopped:
                if no_session and stopped:
                    shutil.rmtree(data, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Lock a file while the block runs; yield False if another process holds the lock."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
