"""Read, solve and run the notebooks. As a script, update their committed outputs.

A solution is written once, in the metadata of its own cell, with a line that ends in `# your
answer`: `name = ...`, `def name(...):` or `class Name:`. `blank` makes the exercise from it, and `solution_text`
the Markdown cell that shows it with its `reason`. Next to it are `wrong` answers.

`python tests/series.py` writes every exercise and solution, runs the notebook and saves the real
outputs, without what only a live front end can show.
"""

import asyncio
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from chatlab.lab.checks import CORRECT, NOT_YET

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
ANSWER = re.compile(r"^(\w+ = ).*?(  # your answer.*)$", re.MULTILINE)
FUNCTION = re.compile(
    r"^((?:(?:async )?def|class) .*:  # your answer.*\n)((?:[ ].*\n|\n)*[ ].*\n)", re.MULTILINE
)
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


def fill(solution: str, answer: str) -> str:
    """Replace the marked answer of a solution: the value of a variable, or a function's body."""
    filled = ANSWER.sub(lambda found: f"{found[1]}{answer}{found[2]}", solution)
    body = textwrap.indent(answer, "    ")
    return FUNCTION.sub(lambda found: f"{found[1]}{body}\n", filled)


def blank(solution: str) -> str:
    """Make the exercise from a solution: replace the marked answer by dots."""
    return fill(solution, "...")


def solution_text(exercise: Any) -> str:
    """Return the text of the cell that shows the solution of an exercise, and the reason."""
    about = exercise.metadata["chatlab"]
    code = re.sub(r"  # your answer.*", "", about["solution"].partition("\nawait lesson.")[0])
    parts = ("<details>\n<summary>Solution</summary>", f"```python\n{code.rstrip()}\n```")
    return "\n\n".join([*parts, about["reason"], "</details>"])


def exercises(notebook: Notebook) -> list[Any]:
    """Return the code cells that have a solution."""
    return [cell for cell in notebook.cells if "solution" in cell.metadata.get("chatlab", {})]


def leave_blank(notebook: Notebook) -> Notebook:
    """Turn every exercise into the form that the learner gets, followed by its solution."""
    for cell in exercises(notebook):
        cell.source = blank(cell.metadata["chatlab"]["solution"])
    shown = [cell for cell in notebook.cells if not cell.id.endswith("-solution")]
    notebook.cells = [one for cell in shown for one in (cell, *_solutions(cell))]
    return notebook


def _solutions(cell: Any) -> Iterator[Any]:
    if "reason" in cell.metadata.get("chatlab", {}):
        about = {"id": f"{cell.id}-solution"}
        yield nbformat.v4.new_markdown_cell(solution_text(cell), **about)  # type: ignore[no-untyped-call]


def answer(notebook: Notebook) -> Notebook:
    """Answer every exercise with each of its wrong answers first, and then with its solution."""
    cells = []
    for cell in notebook.cells:
        about = cell.metadata.get("chatlab", {})
        for number, wrong in enumerate(about.get("wrong", ())):
            about_it = {
                "id": f"{cell.id}-wrong-{number}",
                "metadata": {"chatlab": {"expect": NOT_YET}},
            }
            tried = fill(about["solution"], wrong)
            cells.append(nbformat.v4.new_code_cell(tried, **about_it))  # type: ignore[no-untyped-call]
        if "solution" in about:
            cell.source, about["expect"] = about["solution"], CORRECT
        cells.append(cell)
    notebook.cells = cells
    return notebook


async def run(notebook: Notebook, folder: Path, **environment: str) -> Notebook:
    """Run all cells in a new kernel, in this folder. An exception in a cell stops the run.

    `environment`: further variables for the kernel.
    """
    await NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
    ).async_execute(env=os.environ | environment)
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
