"""The structure of the notebooks and the solutions of their exercises.

nbval compares their committed outputs.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forking
import pytest
import series

from chatlab.lab.checks import BLANK, MARKS

PATHS = series.paths()
LONGEST_CELL = 15  # lines
# They send so much that on a busy machine a request exceeds a limit of the service or of a client.
# Then a check says that it has no result. These notebooks are not about the limits.
SENDS_MANY = {"11_is_it_lighter"}
FRAME = (
    "Goals",
    "Time",
    "Where you are on the map",
    "Predict",
    "Do",
    "See",
    "Why",
    "Now you try",
    "What holds and what does not",
    "Recap",
)

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def prose(notebook: Any) -> str:
    """Return all text between the code cells."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code(notebook: Any) -> list[Any]:
    """Return the code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def numbered(text: str, heading: str) -> list[str]:
    """Return the numbers of the list after a heading, up to the next heading."""
    part = re.split(rf"^(?:#+ |\*\*){heading}", text, maxsplit=1, flags=re.MULTILINE)[1]
    return re.findall(
        r"^(\d+)\. ",
        re.split(r"^(?:#+ |\*\*Time)", part, maxsplit=1, flags=re.MULTILINE)[0],
        re.MULTILINE,
    )


def links(notebook: Any) -> Iterator[str]:
    """Yield the targets of all links."""
    yield from re.findall(r"\]\(([^)#]+)[^)]*\)", prose(notebook))


def verdicts(notebook: Any) -> list[str]:
    """Return the text of each check's verdict."""
    return [
        text
        for cell in series.exercises(notebook)
        for text in series.texts(cell)
        if text.startswith(tuple(MARKS))
    ]


def test_there_are_notebooks() -> None:
    """The series begins with 00, and the numbers have no gap."""
    assert [path.name[:2] for path in PATHS] == [f"{number:02}" for number in range(len(PATHS))]
    assert PATHS[0].name == "00_start_here.ipynb"


def test_the_index_has_all() -> None:
    """The index has number, title, minutes and link of every notebook in order.

    It also links to the instructor's page.
    """
    text = prose(series.read(series.FOLDER / "index.ipynb"))
    rows = re.findall(r"^\| (\d\d) \| \[(.+?)\]\((.+?)\) \| (\d+) \|", text, re.MULTILINE)
    notebooks = [(series.read(path), path.name) for path in PATHS]
    assert rows == [
        (*series.title(notebook), name, str(series.minutes(notebook)))
        for notebook, name in notebooks
    ]
    assert "(INSTRUCTOR.md)" in text


@each_notebook
def test_neighbours_are_linked(path: Path) -> None:
    """Top and end link to the previous notebook, the index and the next notebook."""
    place = PATHS.index(path)
    wanted = (
        [PATHS[place - 1].name] * (place > 0)
        + ["index.ipynb"]
        + [other.name for other in PATHS[place + 1 : place + 2]]
    )
    for line in re.findall(r"^previous: .+$", prose(series.read(path)), re.MULTILINE):
        assert re.findall(r"\]\((.+?)\)", line) == wanted


@each_notebook
def test_the_frame_is_kept(path: Path) -> None:
    """Every notebook has the sections of FRAME, in this order."""
    text = prose(series.read(path))
    places = [re.search(rf"^(?:## |\*\*){re.escape(part)}", text, re.MULTILINE) for part in FRAME]
    assert [part for part, place in zip(FRAME, places, strict=True) if place is None] == []
    order = [place.start() for place in places if place]
    assert order == sorted(order)
    assert re.search(r"\*\*Time:\*\* \d+ minutes", text)
    assert len(re.findall(r"^previous: .+ · index: .+ · next: .+$", text, re.MULTILINE)) == 2


@each_notebook
def test_the_recap_mirrors_the_goals(path: Path) -> None:
    """Each goal at the top has a matching point in the recap."""
    text = prose(series.read(path))
    goals = numbered(text, "Goals")
    assert len(goals) >= 2
    assert numbered(text, "Recap") == goals


@each_notebook
def test_links_lead_somewhere(path: Path) -> None:
    """A link names an existing file, never a web page."""
    assert [link for link in links(series.read(path)) if not (path.parent / link).exists()] == []


@each_notebook
def test_cells_are_short(path: Path) -> None:
    """A code cell has one to 15 lines, and never blocks the event loop with a sleep.

    All cells have been run in order.
    """
    cells = code(series.read(path))
    lines = {cell.id: [line for line in cell.source.splitlines() if line.strip()] for cell in cells}
    assert {name for name, found in lines.items() if not 1 <= len(found) <= LONGEST_CELL} == set()
    assert [cell.id for cell in cells if "time.sleep(" in cell.source] == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@each_notebook
def test_it_asks_before_it_shows_and_checks_after(path: Path) -> None:
    """A prediction comes first, and two to five exercises have a check.

    The last cell ends the session.
    """
    notebook = series.read(path)
    sources = [cell.source for cell in code(notebook)]
    predicted = next(
        index for index, cell in enumerate(notebook.cells) if "= predict(" in cell.source
    )
    assert predicted < next(
        index
        for index, cell in enumerate(notebook.cells)
        if re.search("^## Do$", cell.source, re.MULTILINE)
    )
    assert 2 <= len(series.exercises(notebook)) <= 5
    assert all("await lesson." in cell.source for cell in series.exercises(notebook))
    assert sources[-1].strip() == "await lab.end()"


@each_notebook
def test_exercises_are_derived_from_their_solutions(path: Path) -> None:
    """The exercise is the solution without its answer, so a solution is written only once.

    Wrong answers are listed next to it. The next cell shows the solution with its reason.
    """
    notebook = series.read(path)
    for cell in series.exercises(notebook):
        solution = cell.metadata["chatlab"]["solution"]
        assert cell.source == series.blank(solution) != solution
        assert len(series.ANSWER.findall(solution) + series.FUNCTION.findall(solution)) == 1
        assert cell.metadata["chatlab"]["wrong"]
        if "reason" in cell.metadata["chatlab"]:
            shown = notebook.cells[notebook.cells.index(cell) + 1]
            assert shown.source == series.solution_text(cell)


@each_notebook
def test_the_learner_writes_working_code(path: Path) -> None:
    """Where solutions are shown, at least one exercise asks for a function."""
    solved = [
        cell.metadata["chatlab"]["solution"]
        for cell in series.exercises(series.read(path))
        if "reason" in cell.metadata["chatlab"]
    ]
    assert not solved or any(series.FUNCTION.search(solution) for solution in solved)


@each_notebook
def test_saved_outputs_are_for_any_reader(path: Path) -> None:
    """Committed outputs are readable without a live widget and contain no local paths.

    Each output has a text, and none is the view of a dead widget.
    """
    notebook = series.read(path)
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert "widgets" not in notebook.metadata
    assert all(
        "text/plain" in output.data and series.WIDGET_VIEW not in output.data
        for output in outputs
        if "data" in output
    )
    assert re.findall(r"/(?:home|root|Users|work|tmp)/\S*", path.read_text(encoding="utf-8")) == []


@pytest.mark.slow
@each_notebook
async def test_checks_tell_right_from_wrong(path: Path) -> None:
    """Each check rejects the wrong answers of its exercise and accepts the right one."""
    patient = {forking.PATIENT: "1"} if path.stem in SENDS_MANY else {}
    notebook = await series.run(series.answer(series.read(path)), path.parent, **patient)
    asked = [cell for cell in notebook.cells if "expect" in cell.metadata.get("chatlab", {})]
    said = [(cell.id, next(series.texts(cell), "nothing")) for cell in asked]
    wrong = [
        (name, text)
        for cell, (name, text) in zip(asked, said, strict=True)
        if not text.startswith(cell.metadata["chatlab"]["expect"])
    ]
    assert wrong == []


@each_notebook
def test_no_blank_is_found_correct(path: Path) -> None:
    """A check of a blank answer says that there is no answer yet, never that it is correct.

    nbval has just run the blank exercises and compared the output.
    """
    notebook = series.read(path)
    assert [verdict.partition(".")[0] for verdict in verdicts(notebook)] == [BLANK] * len(
        series.exercises(notebook)
    )
