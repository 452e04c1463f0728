"""The exercises that were solved, kept in the data folder across notebooks, for the index."""

import json
from pathlib import Path

from chatlab.lab import json_file
from chatlab.lab.workspace import lab_folder

FILE_NAME = "exercises.json"


class ExerciseLog:
    """One JSON file: the names of the solved exercises, by notebook. Kernels may share it."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = (folder or lab_folder()) / FILE_NAME

    def add(self, notebook: str, exercise: str) -> None:
        def with_exercise() -> dict[str, list[str]]:
            solved = self.read()
            solved.setdefault(notebook, set()).add(exercise)
            return {number: sorted(names) for number, names in sorted(solved.items())}

        json_file.update(self._file, with_exercise)

    def read(self) -> dict[str, set[str]]:
        """Return the solved exercises. An unreadable file counts as empty."""
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            return {number: {*map(str, names)} for number, names in rows.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


def exercise_name(check: str, *arguments: object) -> str:
    """Return the name of an exercise: its check, and the texts that the check gets.

    Several exercises of a notebook may have the same check, with another text.
    """
    return " ".join([check, *(text for text in arguments if isinstance(text, str))])
