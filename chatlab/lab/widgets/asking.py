"""A question to answer before it is tried."""

import html
from typing import Any

import ipywidgets

from chatlab.lab.claims import TIMED
from chatlab.lab.said import Said
from chatlab.lab.widgets.live import VIEW


class Prediction(ipywidgets.VBox):  # type: ignore[misc]  # the library has no types
    """A question to answer before it is tried. `against` closes it."""

    def __init__(self, question: str, options: list[str], chosen: str) -> None:
        self.question, self.options = question, options
        self._choice = ipywidgets.RadioButtons(options=options, value=chosen, layout={"width": "max-content"})
        super().__init__([ipywidgets.HTML(f"<b>{html.escape(question)}</b>"), self._choice])

    @property
    def answer(self) -> str:
        return str(self._choice.value)

    def against(self, measured: str, *, timed: bool = False) -> Said:
        """What was said, what was measured. From now on the answer stands. `timed`: another machine may measure something else."""
        self._choice.disabled = True
        verdict = "So it is." if self.answer == measured else "Not so; read on for the reason."
        return Said(f"{f'{TIMED} ' if timed else ''}You said: {self.answer}. Measured: {measured}. {verdict}")

    def __repr__(self) -> str:
        return f"{self.question} ({' / '.join(self.options)})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        options = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"text/plain": repr(self), "text/html": f"<p><b>{html.escape(self.question)}</b></p><ul>{options}</ul>", VIEW: view}


def predict(question: str, *options: str, chosen: str | None = None) -> Prediction:
    """Ask before it is tried. `chosen` is what stands there first, so that a notebook runs through without anybody."""
    return Prediction(question, list(options), chosen or options[0])
