"""`chatlab lab`: the learner's own copy of the notebooks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT_S

from chatlab.errors import EngineError
from chatlab.run import working_copy
from chatlab.run.working_copy import RECORD, prepare, shipped

ROOT = Path(__file__).parents[2]


def notebook(text: str) -> str:
    """Return a notebook with an exercise, its solution and its output."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "metadata": {}, "source": [text]},
        {
            "cell_type": "code",
            "metadata": {"chatlab": {"solution": "x = 5"}},
            "source": ["x = ..."],
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["5"]}],
            "execution_count": 1,
        },
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a package with two notebooks."""
    folder = tmp_path / "package" / "notebooks"
    folder.mkdir(parents=True)
    for name in ("00", "01"):
        (folder / f"{name}.ipynb").write_text(notebook("old"))
    monkeypatch.setattr(working_copy, "shipped", lambda: folder)
    return folder


def test_the_copy_has_no_outputs_and_no_solutions(tmp_path: Path) -> None:
    """All notebooks and pages of the package are there, and nothing gives an answer away."""
    folder, outdated = prepare(tmp_path / "copy", fresh=False)
    assert outdated == []
    of_package = {file.name for file in shipped().glob("*.*")} - {"scorecard.html"}  # written by 13
    assert of_package <= {file.name for file in folder.iterdir()}
    for file in folder.glob("*.ipynb"):
        found = json.loads(file.read_text(encoding="utf-8"))
        code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
        assert code
        assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []
        assert [cell for cell in found["cells"] if "chatlab" in cell["metadata"]] == []


def test_pages_that_a_notebook_links_to_are_copied(tmp_path: Path, package: Path) -> None:
    """They are in a folder of the copy, and the links lead there."""
    (package / "00.ipynb").write_text(notebook("[the document](../docs/cache-flow.md#claims)"))
    (package.parent / "docs").mkdir()
    (package.parent / "docs" / "cache-flow.md").write_text("The document")
    folder, _ = prepare(tmp_path / "copy", fresh=False)
    assert "](docs/cache-flow.md#claims)" in (folder / "00.ipynb").read_text()
    assert (folder / "docs" / "cache-flow.md").read_text() == "The document"


def test_a_changed_file_is_never_overwritten(tmp_path: Path, package: Path) -> None:
    """An update replaces what the learner has not changed, and names what is older now."""
    folder, _ = prepare(tmp_path / "copy", fresh=False)
    (folder / "00.ipynb").write_text("mine")
    (folder / "notes.txt").write_text("mine too")
    assert prepare(folder, fresh=False) == (folder, [])
    for name in ("00", "01"):
        (package / f"{name}.ipynb").write_text(notebook("new"))
    for _ in range(2):
        assert prepare(folder, fresh=False) == (folder, ["00.ipynb"])
    assert (folder / "00.ipynb").read_text() == "mine"
    assert (folder / "notes.txt").read_text() == "mine too"
    assert "new" in (folder / "01.ipynb").read_text()


def test_a_copy_is_made_without_jupyterlab(tmp_path: Path) -> None:
    """On a JupyterHub, JupyterLab is running already."""
    command = [sys.executable, "-m", "chatlab", "lab", str(tmp_path / "copy"), "--copy-only"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=LIMIT_S)
    assert "Your notebooks are in" in done.stderr
    assert (tmp_path / "copy" / "00_start_here.ipynb").exists()


def test_a_deleted_file_comes_back(tmp_path: Path, package: Path) -> None:
    """To get a notebook again, a learner deletes the changed one."""
    folder, _ = prepare(tmp_path / "copy", fresh=False)
    (folder / "00.ipynb").unlink()
    prepare(folder, fresh=False)
    assert (folder / "00.ipynb").exists()


def test_a_fresh_copy_is_made_beside_the_former(tmp_path: Path, package: Path) -> None:
    """The first one keeps the name, the next ones get a number."""
    copies = [prepare(tmp_path / "copy", fresh=True)[0].name for _ in range(3)]
    assert copies == ["copy", "copy-2", "copy-3"]


@pytest.mark.parametrize("record", [None, "{half"])
def test_a_folder_with_other_files_is_left_alone(
    tmp_path: Path, package: Path, record: str | None
) -> None:
    """Nothing is written into a folder that is not a working copy."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "00.ipynb").write_text("mine")
    if record:
        (tmp_path / "thesis" / RECORD).write_text(record)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(EngineError, match="not a working copy") as refused:
        prepare(tmp_path / "thesis", fresh=False)
    assert refused.value.fix == "chatlab lab ANOTHER_FOLDER"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path, package: Path) -> None:
    """The error names the folder and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"Cannot make a working copy .*Not a directory"):
        prepare(tmp_path / "file" / "copy", fresh=False)


def test_git_ignores_the_copies_in_a_checkout() -> None:
    """`make lab` leaves the checkout clean."""
    assert "/chatlab-notebooks*/" in (ROOT / ".gitignore").read_text().splitlines()
