"""Run the load generators as child processes.

wrk sends HTTP requests as fast as possible if it is on the PATH. `benchmarks.load` does the same
without wrk, and sends requests at a constant rate and over sockets.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.environment import HERE
from benchmarks.result import MeasurementError

EXTRA_TIMEOUT_S = 60.0  # for a generator, beyond the time that it measures
MAX_FAILED_SHARE = 0.001
OWN_GENERATOR = "benchmarks.load"
MISSING_WRK = "wrk is not on the PATH (Debian: apt-get install wrk). The benchmarks use their own load generator, which needs more CPU time."

Figures = dict[str, float]


def has_wrk() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def run_closed_loop(url: str, requests: Path, *, seconds: float, connections: int) -> Figures:
    """Send requests as fast as possible, one at a time on each connection."""
    if not has_wrk():
        return run_own(
            "closed", url=url, requests=str(requests), seconds=seconds, connections=connections
        )
    duration_s = max(1, round(seconds))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{duration_s}s",
        "--timeout",
        "5s",
        "-s",
        str(HERE / "requests.lua"),
        url,
    ]
    done = subprocess.run(
        [*command, "--", str(requests)],
        capture_output=True,
        text=True,
        timeout=duration_s + EXTRA_TIMEOUT_S,
        check=True,
    )
    return _checked(json.loads(done.stdout.splitlines()[-1]))


def run_own(kind: str, **spec: Any) -> Figures:
    """Run `benchmarks.load` and return its figures. Raises MeasurementError."""
    done = subprocess.run(
        [sys.executable, "-m", OWN_GENERATOR],
        input=json.dumps(spec | {"kind": kind}) + "\n",
        capture_output=True,
        text=True,
        timeout=spec["seconds"] + EXTRA_TIMEOUT_S,
        cwd=HERE.parent,
        check=False,
    )
    if done.returncode:
        raise MeasurementError(f"The load generator failed: {done.stderr[-2000:]}")
    return _checked(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def open_idle_sockets(url: str, users: list[dict[str, str]]) -> Iterator[int]:
    """Keep one idle socket for each user open during the block, and yield their number."""
    command = [sys.executable, "-m", OWN_GENERATOR]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
        start_new_session=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps({"kind": "idle", "url": url, "users": users}) + "\n")
        process.stdin.flush()
        yield int(json.loads(process.stdout.readline())["sockets"])
    finally:
        process.stdin.close()
        process.wait(EXTRA_TIMEOUT_S)
        process.stdout.close()


def _checked(figures: Figures) -> Figures:
    """Add the rate. Raises MeasurementError if requests failed, because errors can be fast."""
    if not figures["requests"]:
        raise MeasurementError("No request was answered. Measure for longer with --seconds.")
    if figures["failed"] > MAX_FAILED_SHARE * figures["requests"]:
        raise MeasurementError(
            f"{figures['failed']:.0f} of {figures['requests']:.0f} requests failed."
        )
    return figures | {"rate": figures["requests"] / figures["seconds"]}
