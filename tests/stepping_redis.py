"""A real redis-server whose clock a test can step. libfaketime, which is loaded into it, changes what it reads from the system."""

import importlib.util
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from live import free_port
from waiting import block_until

from chatlab.local.binaries import find_program
from chatlab.settings import load_settings

SLACK_S = 30  # less than any step, and more than a busy machine needs for a reply

needs_libfaketime = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the package libfaketime has a library for Linux on x86-64 only",
)


def library() -> Path:
    """Return the library of the package libfaketime."""
    package = importlib.util.find_spec("libfaketime")
    assert package, "the package libfaketime is missing. Fix: make"
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0], "vendor/libfaketime/src/libfaketime.so.1")


class SteppingRedis:
    """A redis-server whose clock is `ahead_s` seconds ahead of that of the machine."""

    def __init__(self, folder: Path, name: str = "redis", ahead_s: int = 0) -> None:
        self._file, self.port, self.ahead_s = folder / f"{name}.time", free_port(), ahead_s
        self._set(ahead_s)
        self.socket, self.url = str(folder / f"{name}.sock"), f"redis://127.0.0.1:{self.port}"
        program = find_program("redis", load_settings()).path
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket]
        environment = os.environ | {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with (folder / f"{name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *options, "--save", "", "--dir", str(folder)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.keys = redis.Redis.from_url(self.url)
        block_until(self._answers, "the redis-server to start")

    def step(self, seconds: int) -> None:
        """Let the clock step forward, or back if the number is negative."""
        self.ahead_s += seconds
        self._set(self.ahead_s)
        block_until(self._shows_the_new_time, "the clock to step")

    def _shows_the_new_time(self) -> bool:
        seconds, _ = self.keys.time()
        return abs(seconds - time.time() - self.ahead_s) < SLACK_S

    def _set(self, ahead_s: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.replace(self._file)

    def _answers(self) -> bool:
        try:
            return bool(self.keys.ping())
        except redis.ConnectionError:
            assert self._process.poll() is None, "the redis-server has ended"
            return False

    def kill(self) -> None:
        """End it at once."""
        self.keys.close()
        self._process.kill()
        self._process.wait()
