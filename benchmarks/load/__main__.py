"""Run the load that the line on standard input describes, and print its figures."""

import asyncio
import json
import sys

import uvloop

from benchmarks.load.http import closed_loop, constant_rate
from benchmarks.load.sockets import idle_sockets, joining_sockets, socket_sends

LOADS = {
    "closed": closed_loop,
    "paced": constant_rate,
    "sockets": socket_sends,
    "idle": idle_sockets,
    "joining": joining_sockets,
}


def main() -> None:
    """Run one load."""
    spec = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(LOADS[spec["kind"]](spec))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
