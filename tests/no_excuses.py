"""Run the `chatlab` command, in which a stalled machine does not excuse a timeout.

Tests of outages need the timeouts: the service must notice that a server is away, however busy the machine is.
"""

from chatlab.cli import main
from chatlab.protect import loop_lag

if __name__ == "__main__":
    loop_lag.LATE_SHARE = 1.0
    main()
