"""Read, solve and run the notebooks. As a script, update their committed outputs.

A solution is written once, in the metadata of its own cell; `blank` makes the exercise from it.
Next to it are `wrong` answers. `python tests/series.py` writes every exercise from its solution,
runs the notebook and saves the real outputs, without what only a live front end can show.
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

from chatlab.lab.checks import CORRECT, NOT_YET

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
ANSWER = re.compile(r"^(\w+ = ).*?(  # your answer.*)$", re.MULTILINE)
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

Notebook = Any  # nbformat has no types


def paths() -> list[Path]:
    """Return all notebooks of the series in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def title(notebook: Notebook) -> tuple[str, str]:
    """Return the number and the name of a notebook."""
    number, _, name = (
        notebook.cells[0].source.partition("\n")[0].removeprefix("# ").partition(" · ")
    )
    return number, name


def minutes(notebook: Notebook) -> int:
    """Return the minutes that the whole notebook takes."""
    return int(re.findall(r"\*\*Time:\*\* (\d+) minutes", notebook.cells[0].source)[0])


def read(path: Path) -> Notebook:
    """Read a notebook as it is committed."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def blank(solution: str) -> str:
    """Make the exercise from a solution: replace marked answers by dots."""
    return ANSWER.sub(r"\1...\2", solution)


def exercises(notebook: Notebook) -> list[Any]:
    """Return the code cells that have a solution."""
    return [cell for cell in notebook.cells if "solution" in cell.metadata.get("chatlab", {})]


def leave_blank(notebook: Notebook) -> Notebook:
    """Turn every exercise into the form that the learner gets."""
    for cell in exercises(notebook):
        cell.source = blank(cell.metadata["chatlab"]["solution"])
    return notebook


def _put(wrong: str, line: re.Match[str]) -> str:
    return f"{line[1]}{wrong}{line[2]}"


def answer(notebook: Notebook) -> Notebook:
    """Answer every exercise with each of its wrong answers first, and then with its solution."""
    cells = []
    for cell in notebook.cells:
        about = cell.metadata.get("chatlab", {})
        for number, wrong in enumerate(about.get("wrong", ())):
            tried = ANSWER.sub(functools.partial(_put, wrong), about["solution"])
            about_it = {
                "id": f"{cell.id}-wrong-{number}",
                "metadata": {"chatlab": {"expect": NOT_YET}},
            }
            cells.append(nbformat.v4.new_code_cell(tried, **about_it))  # type: ignore[no-untyped-call]
        if "solution" in about:
            cell.source, about["expect"] = about["solution"], CORRECT
        cells.append(cell)
    notebook.cells = cells
    return notebook


async def run(notebook: Notebook, folder: Path) -> Notebook:
    """Run all cells in a new kernel, in this folder. An exception in a cell stops the run."""
    await NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).async_execute()
    return notebook


def texts(cell: Any) -> Iterator[str]:
    """Yield the outputs of a cell as plain text."""
    for output in cell.outputs:
        yield output.get("text") or output.get("data", {}).get("text/plain", "")


def tidy(notebook: Notebook) -> Notebook:
    """Remove what should not be committed.

    That is views of dead widgets, the times of this run, and a kernel name other than "Python 3".
    """
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
    """Update all notebooks, or those named on the command line."""
    with tempfile.TemporaryDirectory(prefix="chatlab-") as folder:
        os.environ.setdefault("CHATLAB_DATA_DIR", folder)
        for path in [Path(name) for name in sys.argv[1:]] or [*paths(), FOLDER / "index.ipynb"]:
            nbformat.write(tidy(asyncio.run(run(leave_blank(read(path)), path.parent))), path)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
