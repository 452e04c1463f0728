"""How load is made: wrk for HTTP where it is on the PATH, else our own; our own for a constant rate and for sockets. Always a child."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.result import MeasurementError
from benchmarks.sides import HERE

MORE = 60.0  # seconds that a generator may take beyond the time it was given
MISSING_WRK = "wrk is not on the PATH (Debian: apt-get install wrk); our own generator, which takes more of the processor, did its work"

Figures = dict[str, float]


def wrk_is_there() -> bool:
    """An existing tool is taken where there is one."""
    return shutil.which("wrk") is not None


def closed(url: str, requests: Path, *, seconds: float, connections: int = 32) -> Figures:
    """As fast as it goes, each connection one request at a time."""
    if not wrk_is_there():
        return own("closed", url=url, requests=str(requests), seconds=seconds, connections=connections)
    duration = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--timeout", "5s", "-s", str(HERE / "requests.lua"), url]
    done = subprocess.run([*command, "--", str(requests)], capture_output=True, text=True, timeout=duration + MORE, check=True)
    return _checked(json.loads(done.stdout.splitlines()[-1]))


def own(kind: str, **spec: Any) -> Figures:
    """What `benchmarks.load` finds."""
    command, line = [sys.executable, "-m", "benchmarks.load"], json.dumps(spec | {"kind": kind})
    done = subprocess.run(
        command, input=line + "\n", capture_output=True, text=True, timeout=spec["seconds"] + MORE, cwd=HERE.parent, check=False
    )
    if done.returncode:
        raise MeasurementError(f"The load generator failed: {done.stderr[-2000:]}")
    return _checked(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def resting_sockets(url: str, people: list[dict[str, str]]) -> Iterator[int]:
    """So many sockets are open while the block lasts."""
    command = [sys.executable, "-m", "benchmarks.load"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, start_new_session=True)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps({"kind": "idle", "url": url, "people": people}) + "\n")
        process.stdin.flush()
        yield int(json.loads(process.stdout.readline())["sockets"])
    finally:
        process.stdin.close()
        process.wait(MORE)
        process.stdout.close()


def _checked(found: Figures) -> Figures:
    """A side that refuses work is not fast."""
    if not found["requests"]:
        raise MeasurementError("Not one request was answered: measure for longer, with --seconds.")
    if found["failed"] > 0.001 * found["requests"]:
        raise MeasurementError(f"{found['failed']:.0f} of {found['requests']:.0f} requests failed.")
    return found | {"rate": found["requests"] / found["seconds"]}
