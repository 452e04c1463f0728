"""The folder of a session. Its name is also that of the session's database."""

import contextlib
import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pymongo.errors import PyMongoError

from chatlab.local.data_folder import DataFolder
from chatlab.settings import load_settings

LOCK = "session.lock"


def create_folder(name: str, parent: Path) -> tuple[Path, int]:
    """Create a folder such as `lab_00_3fa9c1`, and return it with the file descriptor of its lock.

    The caller keeps the lock open, and the service inherits it. So the folder is abandoned when
    both the kernel and its service have ended.
    """
    if not re.fullmatch(r"[a-z0-9_-]{1,20}", name):
        raise ValueError(
            f"The session name {name!r} is invalid: use 1 to 20 of the characters a-z, 0-9, _ and -."
        )
    parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".", dir=parent))  # not yet one for `remove_abandoned`
    lock = os.open(new / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = parent / f"lab_{name}_{secrets.token_hex(3)}"
    new.rename(folder)
    return folder, lock


def remove_abandoned(parent: Path, drop_database: Callable[[str], object] | None) -> None:
    """Delete the folders of sessions that were killed, and their databases.

    Such a folder is not locked, and no supervisor runs in it. Without `drop_database`, only
    those with a MongoDB of their own are deleted: they need the most space.
    """
    for folder in parent.glob("lab_*"):
        with _locked(folder / LOCK) as is_abandoned, _locked(folder / "lock") as is_stopped:
            data = data_folder(folder)
            has_own_mongodb = any(any(db.glob("*")) for db in data.databases())
            if is_abandoned and is_stopped and (drop_database or has_own_mongodb):
                with contextlib.suppress(PyMongoError):  # then it is left for a later start
                    if drop_database:
                        drop_database(folder.name)
                    data.remove()


def data_folder(folder: Path) -> DataFolder:
    """Return the paths of the private servers of a session."""
    return DataFolder(load_settings(data_dir=folder))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file while the block runs; yield False if that is impossible."""
    with contextlib.ExitStack() as files:
        try:
            lock = files.enter_context(path.open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process holds the lock, or has just deleted the folder
            yield False
        else:
            yield True
