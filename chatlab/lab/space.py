"""A name for a session's database and keys that no other running session has, on this machine's data folder."""

import fcntl
import os
import re
from pathlib import Path

from chatlab.errors import EngineError

MOST = 100  # sessions of one notebook at a time


def take_space(name: str, folder: Path) -> tuple[str, int]:
    """`lab_00`, or `lab_00_2` while another kernel has that; and the lock that says so, to be held.

    The service inherits the lock: a name is free again when both the kernel and its service have ended.
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
