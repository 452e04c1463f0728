"""Run a peer on uvicorn: `python -m benchmarks.peers plain_fastapi PORT`.

The process ends when its standard input is closed, so that it never outlives the benchmark.
"""

import os
import sys
import threading

import uvicorn


def _exit_when_stdin_closes() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_when_stdin_closes, daemon=True).start()
    uvicorn.run(
        f"benchmarks.peers.{sys.argv[1]}:app",
        port=int(sys.argv[2]),
        log_level="warning",
        access_log=False,
    )
