"""The summary of the demo: a table of the promises, and a sentence for each that was not seen."""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from chatlab.demo.promises import PromiseResult


def summary_table(results: Sequence[PromiseResult]) -> RenderableType:
    """Return one row for each promise, with what was measured."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=False, show_edge=False
    )
    table.add_column("The diagram promises", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("measured: HTTP · Socket.IO", no_wrap=True)
    for result in results:
        seen = Text("seen", "green") if result.seen else Text("not seen", "bold red")
        table.add_row(result.promise, seen, measured_figures(result))
    return table


def measured_figures(result: PromiseResult) -> str:
    return " · ".join(item.text if item.seen else "-" for item in result.evidence.values())


def failure_sentences(results: Sequence[PromiseResult]) -> list[str]:
    """Return a sentence for each reason why a promise was not seen, with its transports."""
    sentences = []
    for result in results:
        transports_by_reason: dict[str, list[str]] = {}
        for transport, item in result.evidence.items():
            if not item.seen:
                transports_by_reason.setdefault(item.text, []).append(transport)
        sentences += [
            f"{result.promise}{_in_brackets(transports)}: {reason}"
            for reason, transports in transports_by_reason.items()
        ]
    return sentences


def _in_brackets(transports: Sequence[str]) -> str:
    names = " and ".join(filter(None, transports))
    return f" ({names})" if names else ""
