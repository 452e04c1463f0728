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

MOST = 100  # sessions of one notebook at the same time


def take_space(name: str, folder: Path) -> tuple[str, int]:
    """Return a free name and the file descriptor of its lock.

    The name is `lab_00`, or `lab_00_2` while another kernel uses that. The caller keeps the lock
    open, and the service inherits it: a name is free again when both the kernel and its service
    have ended.
    """
    if not re.fullmatch(r"[a-z0-9_-]{1,20}", name):
        raise ValueError("a session's name is made of a-z, 0-9, _ and -, 20 at most")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, MOST + 1):
        space = f"lab_{name}" if number == 1 else f"lab_{name}_{number}"
        lock = os.open(folder / f"{space}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return space, lock
    raise EngineError(f"{MOST} kernels have a session of this notebook.", "end some of them")


def remove_left(folder: Path) -> None:
    """Delete the engine data of sessions that were killed.

    Such a folder has a name that no session has locked, and no supervisor runs in it.
    """
    for left in folder.glob("lab_*"):
        if left.is_dir():
            with _taken(folder / f"{left.name}.lock") as free, _taken(left / "lock") as still:
                if free and still:
                    shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Try to lock a file while the block runs; False if another process holds the lock."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
