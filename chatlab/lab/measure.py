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
from chatlab.lab.claims import TIMED, claims_table
from chatlab.lab.widgets import Chart
from chatlab.lab.widgets.live import VIEW

TURNS = 200
WARM = 10  # warm-up turns, which are not counted
# The average number of attempts per turn until every reply has the wanted X-Cache.
TRIES = 3

Row = tuple[bool, tuple[str, ...]]  # does it depend on the machine? and its cells


async def in_turn(
    acts: Mapping[str, SendRequest], turns: int = TURNS, wanted: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, float]]:
    """Yield the milliseconds that each side took, turn by turn, without the WARM warm-up turns.

    `wanted` is the X-Cache value that a side's replies must have. A turn with another value (for
    example because a window has just expired) is not counted and is repeated. Raises EngineError
    for a reply that is not 200, or if too many turns must be repeated.
    """
    order, done = list(acts), -WARM
    for _ in range(TRIES * (turns + WARM)):
        replies = {name: acts[name]() for name in order}
        if any(reply.status != 200 for reply in replies.values()):
            raise EngineError(
                "The service refused a request of this measurement.",
                "run the notebook again from its first cell",
            )
        order.reverse()
        await asyncio.sleep(0)  # lets the chart and everything else in this kernel run
        if any(replies[name].cache != cache for name, cache in (wanted or {}).items()):
            continue
        done += 1
        if done > 0:
            yield {name: replies[name].took_ms for name in acts}
        if done == turns:
            return
    raise EngineError(
        "Too few replies came as this measurement needs them.",
        "run the cell again when the machine has less to do",
    )


async def race(
    acts: Mapping[str, SendRequest],
    chart: Chart,
    turns: int = TURNS,
    wanted: Mapping[str, str] | None = None,
) -> dict[str, list[float]]:
    """Return all samples of each side; each sample is also added to the chart."""
    samples: dict[str, list[float]] = {name: [] for name in acts}
    async for took in in_turn(acts, turns, wanted):
        for name, ms in took.items():
            samples[name].append(ms)
            chart.add(name, ms)
        chart.progress(len(samples[name]), turns)
    return samples


async def write(wires: Sequence[RawHttpClient], receiver: str, messages: int, text: str) -> None:
    """Send `messages` messages, spread over these connections in parallel."""

    def work(place: int) -> None:
        send = make_send(wires[place], receiver, text)
        for _ in range(place, messages, len(wires)):
            if send().status != 200:
                raise EngineError(
                    "The service refused a message.", "run the notebook again from its first cell"
                )

    with ThreadPoolExecutor(len(wires)) as pool:
        await asyncio.gather(
            *(
                asyncio.get_running_loop().run_in_executor(pool, work, place)
                for place in range(len(wires))
            )
        )


# --- results as text ------------------------------------------------------------------------------


def told(found: Interval, unit: str = "ms") -> str:
    """Format as `2.61 ms (2.55 to 2.70)`: the median and its confidence interval."""
    return f"{found.middle:.2f} {unit} ({found.low:.2f} to {found.high:.2f})"


def share(found: Interval) -> str:
    """Format as `52 % (48 to 55)`: the share of time saved and its confidence interval."""
    middle, low, high = (round(100 * value) for value in found)
    return f"{middle} % ({low} to {high})"


def percent(part: float) -> str:
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
        return claims_table(
            self._heads,
            [(timed, _marked(cells) if timed else cells) for timed, cells in self._rows],
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        said = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if self._chart is None:
            return said
        self._live = self._live or framed(self._repr_html_())
        view = {"version_major": 2, "version_minor": 0, "model_id": self._live.model_id}
        return said | {"text/html": f"{self._chart.snapshot()}\n{said['text/html']}", VIEW: view}


def framed(html: str) -> ipywidgets.HTML:
    """Wrap HTML in a widget, styled as JupyterLab styles HTML output."""
    return ipywidgets.HTML(dressed(html))


def dressed(html: str) -> str:
    return f'<div class="jp-RenderedHTMLCommon" style="display: inline-block">{html}</div>'


def _marked(cells: Sequence[str]) -> tuple[str, ...]:
    """Add the mark after the last cell that is not empty."""
    last = max(place for place, cell in enumerate(cells) if cell)
    return (*cells[:last], f"{cells[last]} {TIMED}", *cells[last + 1 :])


def _line(timed: bool, cells: Sequence[str], wide: int) -> str:
    return f"{cells[0]:<{wide}}  {TIMED + ' ' if timed else ''}{' · '.join(cells[1:])}".rstrip()
