"""The progress on the index: measured claims, and a tick for each exercise that is solved."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import series

from chatlab.lab.checks import CheckResult, check, correct, not_yet
from chatlab.lab.claims import ClaimResult
from chatlab.lab.exercise_log import ExerciseLog
from chatlab.lab.lessons.index import NotebookProgress, progress
from chatlab.lab.scorecard import Scorecard


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty data folder, and return the folder for the data of all sessions."""
    monkeypatch.setenv("CHATLAB_DATA_DIR", str(tmp_path))
    return tmp_path / "lab"


def of(number: str) -> NotebookProgress:
    """Return the progress in a notebook of the repository."""
    return next(one for one in progress(str(series.FOLDER)) if one.number == number)


async def test_a_solved_exercise_has_a_tick() -> None:
    """A correct answer counts, a wrong one does not, nor does one outside of a notebook."""

    @check
    async def gone_at(_lab: Any, answer: int) -> CheckResult:
        return correct("Yes.") if answer == 5 else not_yet("No.")

    notebook, other = SimpleNamespace(name="00"), SimpleNamespace(name="another")
    await gone_at(notebook, 6)
    await gone_at(other, 5)
    assert of("00").solved == [False, False, False]
    await gone_at(notebook, 5)
    assert of("00").solved == [True, False, False]
    assert of("00").cells[3] == "✓ · ·"


def test_exercises_with_the_same_check_are_told_apart() -> None:
    """In notebook 15 the name of the test is part of the exercise."""
    ExerciseLog().add("15", "passes in every order")
    assert of("15").solved == [False, True, False, False, False]


def test_every_exercise_of_the_series_has_a_name_of_its_own() -> None:
    """All exercises are found, so that each can have its tick."""
    for path in series.paths():
        found = of(path.name[:2])
        assert len(found.solved) == len(series.exercises(series.read(path)))
        assert found.title == series.title(series.read(path))[1]


def test_a_notebook_is_done_when_all_is_measured_and_solved() -> None:
    """Notebook 01 has one claim and three exercises."""
    for name in ("sends", "finds_after", "rejected"):
        ExerciseLog().add("01", name)
    assert not of("01").is_done
    Scorecard().write("01", [ClaimResult("one_answer", "200", "holds")])
    assert of("01").is_done
    assert (
        repr(progress(str(series.FOLDER))).splitlines()[1]
        == "01 ≈ ✓ exercises ✓ ✓ ✓  claims 1 of 1"
    )


def test_a_broken_log_is_empty(data_folder: Path) -> None:
    """The next solved exercise replaces it."""
    data_folder.mkdir()
    (data_folder / "exercises.json").write_text("[1, {", encoding="utf-8")
    assert ExerciseLog().read() == {}
    ExerciseLog().add("01", "sends")
    assert ExerciseLog().read() == {"01": {"sends"}}
