"""A JSON file in the data folder that several kernels may change at the same time."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def update(file: Path, change: Callable[[], Any]) -> None:
    """Write what `change` returns, which may read the file. Only one process does so at a time.

    A reader sees the old file or the new one, never a part. Raises OSError.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(change(), indent=1, ensure_ascii=False), encoding="utf-8")
        new.replace(file)
