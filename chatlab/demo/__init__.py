"""`chatlab demo`: show in a terminal that the service does what the diagram promises.

One message is sent over each transport and followed until the sweeper has logged that it expired.
The modules, in the order in which they are used:

* `runner` starts private servers and the service, runs the demo and prints the result;
* `servers` describes these servers and reads them directly;
* `scenario` is what happens: sign up, send, look, read, wait;
* `record` collects what was observed, and `promises` judges it;
* `frame`, `summary` and `screen` draw it.

This package imports `client`, `run`, `local` and the public modules of the layers below. Only
`chatlab.cli` imports it.
"""

import io
import signal
import sys
from pathlib import Path

from rich.console import Console

from chatlab.settings import Settings


def demo(settings: Settings, svg: Path | None = None) -> int:
    """Run the demo on standard output and return the exit status.

    The status is 0 if every promise of the diagram was seen, else 1. `svg` is a file for a
    picture of the demo.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # some terminals cannot show box characters
    for signum in (signal.SIGTERM, signal.SIGHUP):  # clean up as after Ctrl-C
        signal.signal(signum, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(highlight=False)
    with console.status("starting MongoDB and Redis ..."):
        # Importing the rest takes most of a second, so the spinner is shown first.
        from chatlab.demo.runner import run  # noqa: PLC0415
    return run(settings, console, svg)
