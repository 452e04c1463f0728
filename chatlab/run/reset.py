"""`chatlab reset`: remove what the private servers hold."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from chatlab.errors import EngineError
from chatlab.local.data_folder import DataFolder
from chatlab.settings import Settings, load_settings


def size_mb(settings: Settings) -> int:
    """Return the size of the data of all private servers, in MB."""
    databases = (db for data in _all(settings) for db in data.databases())
    files = (file for db in databases for file in db.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) >> 20


def reset(settings: Settings) -> None:
    """Delete the data of the private servers, also of notebooks that were killed.

    What the notebooks have measured stays. Raises EngineError if the servers are running.
    """
    for data in _all(settings):
        with data.locked() as lock:
            if lock is None:
                raise EngineError(
                    f"The private servers in {data.path} are running.",
                    "stop chatlab and the kernels of your notebooks, then run it again",
                )
            if data.path != settings.data_dir.expanduser().resolve():
                data.remove()
            else:
                for db in data.databases():
                    shutil.rmtree(db)


def _all(settings: Settings) -> Iterator[DataFolder]:
    """Yield the data folder and those of the sessions of notebooks, as far as they were used."""
    main = settings.data_dir.expanduser().resolve()
    for path in [*sorted(Path(main, "lab").glob("lab_*")), main]:
        data = DataFolder(load_settings(data_dir=path))
        if data.lock.exists():
            yield data
