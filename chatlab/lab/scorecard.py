"""The scorecard: the latest measurement of every claim, kept in the data folder across notebooks."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from chatlab.lab import json_file
from chatlab.lab.claims import BY_NAME, ClaimResult
from chatlab.lab.workspace import lab_folder

SCORECARD_NOTEBOOK = "13"  # measures the claims that are still missing
FILE_NAME = "ledger.json"  # its name in data folders that exist already
FIELDS = {"measured": str, "verdict": str, "timed": bool, "notebook": str, "at": float}


def _is_complete(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(name), kind) for name, kind in FIELDS.items()
    )


def _is_thorough(name: str, notebook: str) -> bool:
    return notebook in (BY_NAME[name].notebook, SCORECARD_NOTEBOOK)


class Entry(NamedTuple):
    """The result for a claim, the notebook that measured it, and when (seconds since 1970)."""

    result: ClaimResult
    notebook: str
    at: float

    @property
    def thorough(self) -> bool:
        """True if the claim was measured by its own notebook or by notebook 13."""
        return _is_thorough(self.result.name, self.notebook)


class Scorecard:
    """One JSON file. Several kernels may write to it at the same time."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = (folder or lab_folder()) / FILE_NAME

    def write(self, notebook: str, results: list[ClaimResult]) -> None:
        """Replace the earlier results of the same claims.

        A quick first measurement does not replace a thorough one.
        """

        def with_results() -> dict[str, dict[str, Any]]:
            now, known = time.time(), self._rows()
            for result in results:
                former = known.get(result.name, {}).get("notebook", "")
                if _is_thorough(result.name, notebook) or not _is_thorough(result.name, former):
                    known[result.name] = {**result._asdict(), "notebook": notebook, "at": now}
            return known

        json_file.update(self._file, with_results)

    def read(self) -> dict[str, Entry]:
        """Return the results by claim name.

        An unreadable file or an incomplete row counts as missing.
        """
        return {
            name: Entry(
                ClaimResult(name, row["measured"], row["verdict"], row["timed"]),
                row["notebook"],
                row["at"],
            )
            for name, row in self._rows().items()
        }

    def erase(self) -> None:
        """Delete all measurements."""
        self._file.unlink(missing_ok=True)

    def _rows(self) -> dict[str, dict[str, Any]]:
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return (
            {name: row for name, row in rows.items() if name in BY_NAME and _is_complete(row)}
            if isinstance(rows, dict)
            else {}
        )
