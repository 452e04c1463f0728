"""A question that the learner answers before an experiment."""

import html
from typing import Any

import ipywidgets

from chatlab.lab.plain_text import PlainText
from chatlab.lab.tables import TIMED
from chatlab.lab.widgets.live import VIEW


class Prediction(ipywidgets.VBox):  # type: ignore[misc]  # the library has no types
    """A question that the learner answers before an experiment. `compare_with` closes it."""

    def __init__(self, question: str, options: list[str]) -> None:
        self.question, self.options = question, options
        self._choice = ipywidgets.RadioButtons(
            options=options, value=None, layout={"width": "max-content"}
        )
        super().__init__([ipywidgets.HTML(f"<b>{html.escape(question)}</b>"), self._choice])

    @property
    def answer(self) -> str | None:
        """The chosen option, or None while nothing is chosen."""
        return None if self._choice.value is None else str(self._choice.value)

    def compare_with(self, measured: str, *, timed: bool = False) -> PlainText:
        """Compare the answer with the measured result, and lock the answer.

        `timed`: the result may be different on another machine.
        """
        self._choice.disabled = True
        mark = f"{TIMED} " if timed else ""
        if self.answer is None:
            return PlainText(f"{mark}You made no prediction. Measured: {measured}.")
        verdict = "Correct." if self.answer == measured else "Not quite. Here is why."
        return PlainText(f"{mark}You predicted: {self.answer}. Measured: {measured}. {verdict}")

    def __repr__(self) -> str:
        return f"{self.question} ({' / '.join(self.options)})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        options = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {
            "text/plain": repr(self),
            "text/html": f"<p><b>{html.escape(self.question)}</b></p><ul>{options}</ul>",
            VIEW: view,
        }


def predict(question: str, *options: str) -> Prediction:
    """Ask a question before an experiment. A learner may also continue without an answer."""
    return Prediction(question, list(options))
