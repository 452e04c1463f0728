"""Measure from a notebook: interleaved samples, and results marked when they depend on the machine.

Requests run one at a time over bare connections, and the order of the sides is reversed on every
turn, so that other load on the machine affects all sides alike. The number of turns is fixed, not
the duration: a slow machine takes longer but collects as many samples. Between two turns the kernel
can do other work.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ipywidgets

from chatlab.bench.comparisons import SendRequest, make_send
from chatlab.bench.raw_http import RawHttpClient
from chatlab.bench.samples import Interval
from chatlab.errors import EngineError
from chatlab.lab.tables import TIMED, timed_table_html
from chatlab.lab.widgets import Chart
from chatlab.lab.widgets.live import VIEW

TURNS = 200
WARM_UP_TURNS = 10  # not counted
# On average, until every reply has the wanted X-Cache.
MAX_ATTEMPTS_PER_TURN = 3
LATE = 503  # MongoDB did not reply in time, which happens on a busy machine
MAX_TRIES = 10  # of a message

Row = tuple[bool, tuple[str, ...]]  # does it depend on the machine? and its cells


async def alternate(
    requests: Mapping[str, SendRequest], turns: int = TURNS, wanted: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, float]]:
    """Yield the milliseconds that each side took, turn by turn, without the warm-up turns.

    `wanted` is the X-Cache value that a side's replies must have. A turn with another value (for
    example because a window has just expired) is not counted and is repeated, and so is one in
    which MongoDB was late. Raises EngineError for any other reply that is not 200, or if too many
    turns must be repeated.
    """
    order, done = list(requests), -WARM_UP_TURNS
    for _ in range(MAX_ATTEMPTS_PER_TURN * (turns + WARM_UP_TURNS)):
        replies = {name: requests[name]() for name in order}
        if any(reply.status not in (200, LATE) for reply in replies.values()):
            raise EngineError(
                "The service rejected a request of this measurement.",
                "run the notebook again from its first cell",
            )
        order.reverse()
        await asyncio.sleep(0)  # lets the chart and everything else in this kernel run
        if any(reply.status == LATE for reply in replies.values()):
            continue
        if any(replies[name].cache != cache for name, cache in (wanted or {}).items()):
            continue
        done += 1
        if done > 0:
            yield {name: replies[name].took_ms for name in requests}
        if done == turns:
            return
    raise EngineError(
        "Too few replies had the X-Cache value that this measurement needs.",
        "run the cell again when the machine is less busy",
    )


async def measure_alternately(
    requests: Mapping[str, SendRequest],
    chart: Chart,
    turns: int = TURNS,
    wanted: Mapping[str, str] | None = None,
) -> dict[str, list[float]]:
    """Return all samples of each side; each sample is also added to the chart."""
    samples: dict[str, list[float]] = {name: [] for name in requests}
    async for took in alternate(requests, turns, wanted):
        for name, ms in took.items():
            samples[name].append(ms)
            chart.add(name, ms)
        chart.progress(len(samples[name]), turns)
    return samples


async def send_many(
    clients: Sequence[RawHttpClient], receiver: str, messages: int, text: str
) -> None:
    """Send `messages` messages, spread over these connections in parallel.

    If MongoDB is late, a message is sent again.
    """

    def send_share(first: int) -> None:
        send = make_send(clients[first], receiver, text)
        for _ in range(first, messages, len(clients)):
            statuses = (send().status for _ in range(MAX_TRIES))
            if next((status for status in statuses if status != LATE), LATE) != 200:
                raise EngineError(
                    "The service rejected a message.", "run the notebook again from its first cell"
                )

    run_in = asyncio.get_running_loop().run_in_executor
    with ThreadPoolExecutor(len(clients)) as pool:
        await asyncio.gather(*(run_in(pool, send_share, first) for first in range(len(clients))))


# --- results as text ------------------------------------------------------------------------------


def format_interval(interval: Interval, unit: str = "ms") -> str:
    """Format as `2.61 ms (2.55 to 2.70)`: the median and its confidence interval."""
    return f"{interval.middle:.2f} {unit} ({interval.low:.2f} to {interval.high:.2f})"


def format_share(interval: Interval) -> str:
    """Format as `52 % (48 to 55)`: the share of time saved and its confidence interval."""
    middle, low, high = (round(100 * value) for value in interval)
    return f"{middle} % ({low} to {high})"


def format_percent(part: float) -> str:
    return f"{round(100 * part)} %"


class Table:
    """Rows of text. Those that depend on the machine are marked, both as text and as HTML.

    `chart` is the live chart of this measurement. A saved notebook contains its last picture above
    the table. A live front end already shows the chart, so there the table is shown alone.
    """

    def __init__(
        self, heads: Sequence[str], rows: Sequence[Row], *, chart: Chart | None = None
    ) -> None:
        self._heads, self._rows, self._chart = tuple(heads), list(rows), chart
        self._live: ipywidgets.HTML | None = None

    def __repr__(self) -> str:
        wide = max(len(cells[0]) for _, cells in [(False, self._heads), *self._rows])
        return "\n".join(_line(*row, wide) for row in [(False, self._heads), *self._rows])

    def _repr_html_(self) -> str:
        return timed_table_html(
            self._heads,
            [(timed, _marked(cells) if timed else cells) for timed, cells in self._rows],
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if self._chart is None:
            return bundle
        self._live = self._live or html_widget(self._repr_html_())
        view = {"version_major": 2, "version_minor": 0, "model_id": self._live.model_id}
        return bundle | {
            "text/html": f"{self._chart.snapshot()}\n{bundle['text/html']}",
            VIEW: view,
        }


def html_widget(html: str) -> ipywidgets.HTML:
    """Wrap HTML in a widget, styled as JupyterLab styles HTML output."""
    return ipywidgets.HTML(styled_html(html))


def styled_html(html: str) -> str:
    return f'<div class="jp-RenderedHTMLCommon" style="display: inline-block">{html}</div>'


def _marked(cells: Sequence[str]) -> tuple[str, ...]:
    """Add the mark after the last cell that is not empty."""
    last = max(place for place, cell in enumerate(cells) if cell)
    return (*cells[:last], f"{cells[last]} {TIMED}", *cells[last + 1 :])


def _line(timed: bool, cells: Sequence[str], wide: int) -> str:
    return f"{cells[0]:<{wide}}  {TIMED + ' ' if timed else ''}{' · '.join(cells[1:])}".rstrip()
