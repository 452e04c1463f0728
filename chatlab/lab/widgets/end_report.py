"""The report at the end of a session: what was not deleted, and a button that stops the kernel.

The browser stops the kernel through the REST API of the Jupyter server, because a kernel that exits
by itself is started again. In a front end without that server, the text names the menu.
"""

import contextlib
import html
from pathlib import Path

from ipykernel.connect import get_connection_file

from chatlab.lab.widgets.live import OWN, Live

MENU = "To free the memory of this notebook too, choose Kernel, Shut Down Kernel."


class EndReport(Live):
    """The last output of a notebook. `error` says why the data could not be deleted."""

    drawing = OWN / "end_report.js"

    def __init__(self, error: str = "") -> None:
        self._text = (
            f"The session has ended. Its data in MongoDB could not be deleted: {error}"
            if error
            else "The session has ended. Its service and its Redis have stopped, and its data in"
            " MongoDB is deleted."
        )
        super().__init__(model={"text": self._text, "menu": MENU, "kernel": _kernel_id()})

    def snapshot(self) -> str:
        return f"<p>{html.escape(self._text)}<br>{MENU}</p>"

    def __repr__(self) -> str:
        return f"{self._text}\n{MENU}"


def _kernel_id() -> str:
    """Return the id by which the Jupyter server knows this kernel, or nothing outside a kernel."""
    with contextlib.suppress(RuntimeError):
        return Path(get_connection_file()).stem.removeprefix("kernel-")
    return ""
