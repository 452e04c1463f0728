"""Tables that a cell shows as text or as HTML."""

import html
from collections.abc import Sequence
from typing import NamedTuple

# Marks a result that depends on the speed of the machine, so it may differ from run to run.
TIMED = "≈"

Cells = Sequence[str]


def table_html(heads: Cells, rows: Sequence[Cells]) -> str:
    """Return an HTML table."""
    return timed_table_html(heads, [(False, row) for row in rows])


def timed_table_html(heads: Cells, rows: Sequence[tuple[bool, Cells]]) -> str:
    """Return an HTML table with one line per row; a timed row has a class of its own.

    Each cell has its own style, because JupyterLab would align the text to the right.
    """
    head = "".join(f'<th style="text-align:left">{text}</th>' for text in heads)
    lines = [_row(timed, cells) for timed, cells in rows]
    return "\n".join(["<table>", f"<tr>{head}</tr>", *lines, "</table>"])


def _row(timed: bool, cells: Cells) -> str:
    row = "".join(f'<td style="text-align:left">{html.escape(text)}</td>' for text in cells)
    return f'<tr class="timed">{row}</tr>' if timed else f"<tr>{row}</tr>"


class Rows(NamedTuple):
    """Rows that a cell shows as a small table.

    Values that depend on the speed of the machine come last and begin with TIMED.
    """

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __repr__(self) -> str:
        wide = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip()
            for row in (self.heads, *self.rows)
        )

    def _repr_html_(self) -> str:
        return table_html(self.heads, self.rows)
