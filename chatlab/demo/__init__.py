"""`chatlab demo`, its first words: something is on the screen at once, while the rest loads (it takes most of a second).

What comes then is in `stage`: the place and the terminal; `play`: what happens; `promises`: what is judged; `picture`: what it looks like.
"""

import io
import signal
import sys
from pathlib import Path

from rich.console import Console

from chatlab.settings import Settings


def demo(settings: Settings, svg: Path | None = None) -> int:
    """Play it on stdout. 0 when all that the diagram promises was seen, else 1. `svg`: keep a picture of it in this file."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a box is no reason to fail
    for end in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal; all tidy up as Ctrl-C does
        signal.signal(end, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(highlight=False)
    with console.status("starting MongoDB and Redis ..."):
        from chatlab.demo.stage import perform  # noqa: PLC0415 - the spinner turns while it loads
    return perform(settings, console, svg)
