"""Show the demo while it runs.

A terminal with enough columns shows one frame that is redrawn. Other outputs, such as a pipe or a
CI log, get one line for each entry of the record's log.
"""

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from chatlab.demo.frame import render_frame
from chatlab.demo.record import DemoRecord
from chatlab.demo.scenario import Draw

MIN_COLUMNS = 80  # of a terminal that shows the frame
SVG_COLUMNS = 100
SVG_AT = 0.55  # of the TTL: when the picture is taken
WEB_FONTS = re.compile(r"@font-face\s*{[^}]*}\s*")  # rich's SVG would load a font from the network


def is_animated(console: Console) -> bool:
    """Return True if the console can redraw a frame of the demo."""
    is_terminal = console.is_terminal and sys.stdout.isatty() and not console.is_dumb_terminal
    return is_terminal and console.width >= MIN_COLUMNS


@contextlib.contextmanager
def show_status(console: Console, text: str) -> Iterator[None]:
    """Show a spinner with the text while the block runs, or print the text once."""
    if is_animated(console):
        with console.status(f"{text} ..."):
            yield
    else:
        print_line(console, time.time() * 1000, "demo", f"{text} ...")
        yield


@contextlib.contextmanager
def open_screen(console: Console, svg: Path | None) -> Iterator[Draw]:
    """Yield the function that draws a record, and saves the picture `svg` if there is one."""
    with contextlib.ExitStack() as stack:
        draws: list[Draw] = [
            _animation(stack, console) if is_animated(console) else _LogPrinter(console)
        ]
        if svg:
            draws.append(_SvgWriter(svg))

        def draw_all(record: DemoRecord) -> None:
            for draw in draws:
                draw(record)

        yield draw_all


def _animation(stack: contextlib.ExitStack, console: Console) -> Draw:
    live = stack.enter_context(Live(console=console, auto_refresh=False, vertical_overflow="crop"))
    return lambda record: live.update(
        render_frame(record, time.time() * 1000, console.width), refresh=True
    )


class _LogPrinter:
    """Prints each entry of the record's log once."""

    def __init__(self, console: Console) -> None:
        self._console, self._printed = console, 0

    def __call__(self, record: DemoRecord) -> None:
        new = record.log[self._printed :]
        self._printed += len(new)
        for at_ms, subject, text in sorted(new, key=lambda entry: entry[0]):
            print_line(self._console, at_ms, subject, text)


def print_line(console: Console, at_ms: float, subject: str, text: str) -> None:
    """Print a line with the time of day; lines are never wrapped."""
    clock = time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))
    console.print(
        f"{clock}.{int(at_ms) % 1000:03d}  {subject:<10} {text}", soft_wrap=True, markup=False
    )
    console.file.flush()


class _SvgWriter:
    """Writes one picture, when a little over half of the first TTL has passed."""

    def __init__(self, path: Path) -> None:
        self._path, self._is_written = path, False

    def __call__(self, record: DemoRecord) -> None:
        first = record.messages[0]
        if (
            self._is_written
            or not first.cached
            or first.age_s() < SVG_AT * record.milestones.expired_s
        ):
            return
        self._is_written = True
        console = Console(
            record=True,
            width=SVG_COLUMNS,
            file=io.StringIO(),
            force_terminal=True,
            color_system="truecolor",
        )
        console.print(render_frame(record, time.time() * 1000, SVG_COLUMNS))
        picture = WEB_FONTS.sub("", console.export_svg(title="chatlab demo"))
        self._path.write_text(picture, encoding="utf-8")
