"""Notebook 13: the scorecard as rows, as a table that can be sorted, and as one file to hand in."""

import html
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets

import chatlab
from chatlab.lab.claims import DEPENDS, DOCUMENT, FAILS, HOLDS, Claim
from chatlab.lab.measure import html_widget, styled_html
from chatlab.lab.plain_text import PlainText
from chatlab.lab.scorecard import Entry, Scorecard
from chatlab.lab.tables import TIMED
from chatlab.lab.widgets.live import VIEW

MISSING = "not measured yet"
VERDICTS = (HOLDS, DEPENDS, FAILS, None)
# The sign and the colours of the text and of the background: never a colour alone.
STYLES = {
    HOLDS: ("✓", "#0b5c52", "#dff3ef"),
    DEPENDS: ("~", "#7a4b00", "#fdf0d5"),
    FAILS: ("✗", "#8c2607", "#fbe3dc"),
    None: ("?", "#566170", "#eef2f6"),
}
HEADS = ("no.", "part", "the document says", "measured here", "verdict", "notebook")


class Row(NamedTuple):
    """A claim of the document with its number, and its measurement if there is one."""

    number: int
    claim: Claim
    entry: Entry | None

    @property
    def verdict(self) -> str | None:
        return self.entry.result.verdict if self.entry else None

    @property
    def cells(self) -> tuple[str, ...]:
        claim, entry = self.claim, self.entry
        if entry is None:
            return str(self.number), claim.part, claim.text, MISSING, "", claim.notebook
        mark = f" {TIMED}" if entry.result.timed else ""
        verdict = f"{entry.result.verdict}{mark}"
        return (
            str(self.number), claim.part, claim.text, entry.result.measured, verdict, entry.notebook,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Return the row for a program: a chart, an exercise, a DataFrame."""
        return {
            "number": self.number,
            "name": self.claim.name,
            "part": self.claim.part,
            "claim": self.claim.text,
            "measured": self.entry.result.measured if self.entry else None,
            "verdict": self.verdict,
            "timed": self.entry.result.timed if self.entry else None,
            "notebook": self.claim.notebook,
        }


def rows() -> list[Row]:
    """Return all claims in the order of the document, with the latest measurement of each."""
    known = Scorecard().read()
    return [
        Row(number, claim, known.get(claim.name)) for number, claim in enumerate(DOCUMENT, start=1)
    ]


def count(table: Sequence[Row]) -> dict[str | None, int]:
    """Return how many claims have each verdict; None: not measured yet."""
    found = Counter(row.verdict for row in table)
    return {verdict: found[verdict] for verdict in VERDICTS}


def count_text(table: Sequence[Row]) -> PlainText:
    counts = count(table)
    return PlainText(
        f"{TIMED} {counts[HOLDS]} hold, {counts[DEPENDS]} depend, {counts[FAILS]} do not hold,"
        f" {counts[None]} are not measured yet"
    )


# --- a table that can be sorted -------------------------------------------------------------------

ORDERS: dict[str, Callable[[Row], Any]] = {
    "document": lambda row: row.number,
    "verdict": lambda row: (VERDICTS.index(row.verdict), row.number),
    "notebook": lambda row: (row.claim.notebook, row.number),
}


class ScoreTable(ipywidgets.VBox):  # type: ignore[misc]  # the library has no types
    """The scorecard as a coloured table, with buttons that sort it.

    All of it is about this machine, so each line of its text is marked.
    """

    def __init__(self, table: Sequence[Row]) -> None:
        self._rows = list(table)
        self._order = ipywidgets.ToggleButtons(options=list(ORDERS), description="sort by")
        self._shown = html_widget(self._html())
        self._order.observe(lambda _: self._draw(), "value")
        super().__init__([self._order, self._shown])

    def _draw(self) -> None:
        self._shown.value = styled_html(self._html())

    def _html(self) -> str:
        return table_html(sorted(self._rows, key=ORDERS[self._order.value]))

    def __repr__(self) -> str:
        lines = [f"{TIMED} {' | '.join(row.cells)}" for row in self._rows]
        return "\n".join([f"{len(self._rows)} claims of the document", *lines])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"text/plain": repr(self), "text/html": table_html(self._rows), VIEW: view}


def table_html(table: Sequence[Row]) -> str:
    """Return an HTML table with one line for each row, coloured by verdict."""
    heads = "".join(f'<th style="text-align:left">{head}</th>' for head in HEADS)
    return "\n".join(["<table>", f"<tr>{heads}</tr>", *map(_row_html, table), "</table>"])


def _row_html(row: Row) -> str:
    sign, ink, ground = STYLES[row.verdict]
    cells = [html.escape(text) for text in row.cells]
    cells[4] = f"{sign} {cells[4]}"
    style = f"text-align:left;color:{ink};background:{ground}"
    inside = "".join(f'<td style="{style}">{cell}</td>' for cell in cells)
    return f'<tr class="timed">{inside}</tr>'


# --- one file -------------------------------------------------------------------------------------


STYLE = (
    "body{font-family:sans-serif;margin:2rem;color:#1b2430;background:#fff}"
    "table{border-collapse:collapse}"
    "td,th{padding:.3rem .6rem;vertical-align:top;border-bottom:1px solid #b9c3cf}"
)


def export(path: str, name: str) -> PlainText:
    """Write the scorecard to one HTML file that needs nothing else. `name` is its author."""
    table = rows()
    when = time.strftime("%d %B %Y, %H:%M")
    title = html.escape(f"Scorecard of {name}")
    Path(path).write_text(
        "\n".join([
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f"<style>{STYLE}</style>",
            f"<h1>{title}</h1>",
            f"<p>Measured with chatlab {chatlab.__version__}, exported on {when}.</p>",
            f"<p>{html.escape(count_text(table))}. {TIMED} depends on the machine.</p>",
            table_html(table),
            "</html>\n",
        ]),
        encoding="utf-8",
    )  # fmt: skip
    return PlainText(f"Written: {path}, {len(table)} claims")
