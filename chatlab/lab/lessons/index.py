"""The index of the notebooks: which claims are measured, and which exercises are solved."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from chatlab.lab.claims import DOCUMENT
from chatlab.lab.exercise_log import ExerciseLog, exercise_name
from chatlab.lab.scorecard import Scorecard
from chatlab.lab.tables import TIMED, timed_table_html

CHECK = re.compile(r'^await lesson\.(\w+)\((?:\w+, "([^"]+)")?', re.MULTILINE)
YOURS = "# your answer"
DONE, OPEN = "✓", "·"


class NotebookProgress(NamedTuple):
    """A notebook: its title, its measured claims, and for each exercise whether it is solved."""

    number: str
    title: str
    measured: int
    claims: int
    solved: list[bool]

    @property
    def is_done(self) -> bool:
        return self.measured == self.claims and all(self.solved)

    @property
    def cells(self) -> tuple[str, ...]:
        claims = f"{self.measured} of {self.claims}" if self.claims else ""
        marks = " ".join(DONE if one else OPEN for one in self.solved)
        return self.number, self.title, DONE if self.is_done else "", marks, claims


class Progress(list[NotebookProgress]):
    """All notebooks of a folder. What is shown depends on the learner, so each line is marked."""

    def __repr__(self) -> str:
        return "\n".join(
            f"{one.number} {TIMED} {one.cells[2] or ' '} exercises {one.cells[3]}  claims {one.cells[4]}"
            for one in self
        )

    def _repr_html_(self) -> str:
        heads = ("no.", "notebook", "", "exercises", "claims measured")
        return timed_table_html(heads, [(True, one.cells) for one in self])


def progress(folder: str = ".") -> Progress:
    """Return the progress in the notebooks of this folder."""
    measured, solved = Scorecard().read(), ExerciseLog().read()
    found = Progress()
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        number, cells = path.name[:2], json.loads(path.read_text(encoding="utf-8"))["cells"]
        names = [claim.name for claim in DOCUMENT if claim.notebook == number]
        found.append(
            NotebookProgress(
                number,
                _source(cells[0]).partition("\n")[0].partition(" · ")[2],
                sum(name in measured for name in names),
                len(names),
                [name in solved.get(number, ()) for name in map(_exercise, _exercises(cells))],
            )
        )
    return found


def _exercises(cells: list[dict[str, Any]]) -> list[str]:
    """Return the sources of the exercises."""
    return [
        _source(cell) for cell in cells if cell["cell_type"] == "code" and YOURS in _source(cell)
    ]


def _exercise(source: str) -> str:
    """Return the name of an exercise from the call of its check."""
    found = CHECK.search(source)
    return exercise_name(found[1], found[2]) if found else ""


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])
