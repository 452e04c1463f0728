"""Measuring from a notebook: sides that take turns, and figures that say on their face what hangs on the machine.

One request at a time over bare connections, and who begins changes with every turn: whatever else the machine does meets all sides alike.
The number of turns is fixed, not the time: a slow machine takes longer, and finds as much. Between two turns the kernel is free.
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
WARM = 10  # turns that do not count
TRIES = 3  # for one turn, on average, until every reply comes as it is wanted

Row = tuple[bool, tuple[str, ...]]  # does it hang on the machine? and its cells


async def in_turn(
    acts: Mapping[str, SendRequest], turns: int = TURNS, wanted: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, float]]:
    """The milliseconds that each side took, turn by turn; after WARM that do not count.

    `wanted`: the X-Cache of a side's reply. A turn without it (a window that has just ended, say) does not count and is made again.
    Raises EngineError for a reply that is not 200, or not as wanted too often.
    """
    order, done = list(acts), -WARM
    for _ in range(TRIES * (turns + WARM)):
        replies = {name: acts[name]() for name in order}
        if any(reply.status != 200 for reply in replies.values()):
            raise EngineError("The service refused a request of this measurement.", "run the notebook again from its first cell")
        order.reverse()
        await asyncio.sleep(0)  # for the chart, and all else that lives in this kernel
        if any(replies[name].cache != cache for name, cache in (wanted or {}).items()):
            continue
        done += 1
        if done > 0:
            yield {name: replies[name].took_ms for name in acts}
        if done == turns:
            return
    raise EngineError("Too few replies came as this measurement needs them.", "run the cell again when the machine has less to do")


async def race(
    acts: Mapping[str, SendRequest], chart: Chart, turns: int = TURNS, wanted: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """All samples of each side; the chart grows by each."""
    samples: dict[str, list[float]] = {name: [] for name in acts}
    async for took in in_turn(acts, turns, wanted):
        for name, ms in took.items():
            samples[name].append(ms)
            chart.add(name, ms)
        chart.progress(len(samples[name]), turns)
    return samples


async def write(wires: Sequence[RawHttpClient], receiver: str, messages: int, text: str) -> None:
    """Send so many messages, over these connections at the same time."""

    def work(place: int) -> None:
        send = make_send(wires[place], receiver, text)
        for _ in range(place, messages, len(wires)):
            if send().status != 200:
                raise EngineError("The service refused a message.", "run the notebook again from its first cell")

    with ThreadPoolExecutor(len(wires)) as pool:
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, work, place) for place in range(len(wires))))


# --- in words ----------------------------------------------------------------------------------------------------------------


def told(found: Interval, unit: str = "ms") -> str:
    """`2.61 ms (2.55 to 2.70)`: a median, and between what it would lie if all were measured again."""
    return f"{found.middle:.2f} {unit} ({found.low:.2f} to {found.high:.2f})"


def share(found: Interval) -> str:
    """`52 % (48 to 55)`: the share of time that is saved, likewise."""
    middle, low, high = (round(100 * value) for value in found)
    return f"{middle} % ({low} to {high})"


def percent(part: float) -> str:
    return f"{round(100 * part)} %"


class Table:
    """Rows of words. Those that hang on the machine are marked, as text and as HTML.

    `chart`: the one that grew while this was measured. A saved notebook has its last picture with the table; where a front end is alive it
    stands above already, and the table is shown without.
    """

    def __init__(self, heads: Sequence[str], rows: Sequence[Row], *, chart: Chart | None = None) -> None:
        self._heads, self._rows, self._chart = tuple(heads), list(rows), chart
        self._live: ipywidgets.HTML | None = None

    def __repr__(self) -> str:
        wide = max(len(cells[0]) for _, cells in [(False, self._heads), *self._rows])
        return "\n".join(_line(*row, wide) for row in [(False, self._heads), *self._rows])

    def _repr_html_(self) -> str:
        return claims_table(self._heads, [(timed, _marked(cells) if timed else cells) for timed, cells in self._rows])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        said = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if self._chart is None:
            return said
        self._live = self._live or framed(self._repr_html_())
        view = {"version_major": 2, "version_minor": 0, "model_id": self._live.model_id}
        return said | {"text/html": f"{self._chart.snapshot()}\n{said['text/html']}", VIEW: view}


def framed(html: str) -> ipywidgets.HTML:
    """As a widget, and drawn as JupyterLab draws the same HTML elsewhere."""
    return ipywidgets.HTML(dressed(html))


def dressed(html: str) -> str:
    return f'<div class="jp-RenderedHTMLCommon" style="display: inline-block">{html}</div>'


def _marked(cells: Sequence[str]) -> tuple[str, ...]:
    """With the mark behind the last cell that is not empty."""
    last = max(place for place, cell in enumerate(cells) if cell)
    return (*cells[:last], f"{cells[last]} {TIMED}", *cells[last + 1 :])


def _line(timed: bool, cells: Sequence[str], wide: int) -> str:
    return f"{cells[0]:<{wide}}  {TIMED + ' ' if timed else ''}{' · '.join(cells[1:])}".rstrip()
