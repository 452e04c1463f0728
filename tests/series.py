"""The notebooks as tests see them: exercises and solutions, and a kernel to run them in. As a script, it renews the committed outputs.

A solution stands once, in the metadata of its own cell; the exercise is what `blank` leaves of it. Beside it are answers that are `wrong`.
`python tests/series.py` writes every exercise anew from its solution, runs the notebook and keeps its real outputs, without what only a
living front end can show.
"""

import asyncio
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from chatlab.lab.verdicts import CORRECT, NOT_YET

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
ANSWER = re.compile(r"^(\w+ = ).*?(  # your answer.*)$", re.MULTILINE)
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

Notebook = Any  # nbformat has no types


def paths() -> list[Path]:
    """All notebooks of the series, in their order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def title(notebook: Notebook) -> tuple[str, str]:
    """Its number and its name."""
    number, _, name = notebook.cells[0].source.partition("\n")[0].removeprefix("# ").partition(" · ")
    return number, name


def minutes(notebook: Notebook) -> int:
    """How long it takes somebody who does all of it."""
    return int(re.findall(r"\*\*Time:\*\* (\d+) minutes", notebook.cells[0].source)[0])


def read(path: Path) -> Notebook:
    """A notebook as it is committed."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def blank(solution: str) -> str:
    """The exercise of a solution: dots where a line says that the answer is the learner's."""
    return ANSWER.sub(r"\1...\2", solution)


def exercises(notebook: Notebook) -> list[Any]:
    """The code cells with a solution."""
    return [cell for cell in notebook.cells if "solution" in cell.metadata.get("chatlab", {})]


def leave_blank(notebook: Notebook) -> Notebook:
    """Every exercise as the learner finds it."""
    for cell in exercises(notebook):
        cell.source = blank(cell.metadata["chatlab"]["solution"])
    return notebook


def _put(wrong: str, line: re.Match[str]) -> str:
    return f"{line[1]}{wrong}{line[2]}"


def answer(notebook: Notebook) -> Notebook:
    """Every exercise done wrong first, in each of the ways that stand beside its solution, and then right."""
    cells = []
    for cell in notebook.cells:
        about = cell.metadata.get("chatlab", {})
        for number, wrong in enumerate(about.get("wrong", ())):
            tried = ANSWER.sub(functools.partial(_put, wrong), about["solution"])
            about_it = {"id": f"{cell.id}-wrong-{number}", "metadata": {"chatlab": {"expect": NOT_YET}}}
            cells.append(nbformat.v4.new_code_cell(tried, **about_it))  # type: ignore[no-untyped-call]
        if "solution" in about:
            cell.source, about["expect"] = about["solution"], CORRECT
        cells.append(cell)
    notebook.cells = cells
    return notebook


async def run(notebook: Notebook, folder: Path) -> Notebook:
    """All cells in a kernel of their own, in this folder. A cell that raises stops it."""
    await NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).async_execute()
    return notebook


def texts(cell: Any) -> Iterator[str]:
    """What a cell has said, as plain text."""
    for output in cell.outputs:
        yield output.get("text") or output.get("data", {}).get("text/plain", "")


def tidy(notebook: Notebook) -> Notebook:
    """As it is committed: no view of a dead widget, no times of this run, no kernel but "Python 3"."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    return notebook


def main() -> None:
    """Renew all notebooks, or those that are named."""
    with tempfile.TemporaryDirectory(prefix="chatlab-") as folder:
        os.environ.setdefault("CHATLAB_DATA_DIR", folder)
        for path in [Path(name) for name in sys.argv[1:]] or [*paths(), FOLDER / "index.ipynb"]:
            nbformat.write(tidy(asyncio.run(run(leave_blank(read(path)), path.parent))), path)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
