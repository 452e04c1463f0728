"""`chatlab reset`: what the private servers hold is removed, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from pymongo import MongoClient

from chatlab.local.data_folder import DataFolder
from chatlab.local.engines import open_engines
from chatlab.settings import load_settings


def reset(folder: Path, *options: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command on a data folder."""
    return subprocess.run(
        [sys.executable, "-m", "chatlab", "reset", *options],
        env=os.environ | {"CHATLAB_DATA_DIR": str(folder), "COLUMNS": "300"},
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_data_is_removed_but_never_under_a_running_server(tmp_path: Path) -> None:
    """While the servers run, the command refuses. Afterwards it asks, then removes their data.

    The measurements of the notebooks stay.
    """
    settings = load_settings(data_dir=tmp_path, mongo_url=None, redis_url=None)
    with open_engines(settings, only="mongo") as engines:
        with MongoClient[dict[str, str]](engines.mongo.url) as client:
            client["chatlab"]["messages"].insert_one({"text": "Hello"})
        refused = reset(tmp_path, "--yes")
        assert (refused.returncode, "are running." in refused.stderr) == (1, True)
    killed = DataFolder(load_settings(data_dir=tmp_path / "lab" / "lab_03_3fa9c1"))
    killed.create()
    (killed.db / "journal").touch()
    member = DataFolder(settings).db_of("mongo2")  # of a replica set
    member.mkdir()
    ledger = tmp_path / "lab" / "ledger.json"
    ledger.write_text("{}")

    assert reset(tmp_path, answer="n\n").returncode == 1
    assert any((tmp_path / "db").iterdir())
    done = reset(tmp_path, answer="y\n")
    assert (done.returncode, done.stderr.strip()) == (0, "Removed.")
    assert str(tmp_path) in done.stdout
    assert not (tmp_path / "db").exists()
    assert not member.exists()
    assert not killed.path.exists()
    assert ledger.exists()
    assert reset(tmp_path, "--yes").returncode == 0


def test_a_folder_without_data_is_no_error(tmp_path: Path) -> None:
    """There is nothing to remove, and nothing is created."""
    assert reset(tmp_path / "new", "--yes").returncode == 0
    assert not (tmp_path / "new").exists()
