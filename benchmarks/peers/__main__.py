"""uvicorn on one of the peers: `python -m benchmarks.peers plain_fastapi PORT`. It ends with its standard input."""

import os
import sys
import threading

import uvicorn


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(f"benchmarks.peers.{sys.argv[1]}:app", port=int(sys.argv[2]), log_level="warning", access_log=False)
