"""Run the `chatlab` command, in which a stalled machine does not excuse a timeout.

Tests of outages need the timeouts: the service must notice that a server is away, however busy the machine is.
"""

import generous
import shard_keys

from chatlab.cli import main
from chatlab.protect import loop_lag

if __name__ in ("__main__", "__mp_main__"):  # also in each worker
    loop_lag.LATE_SHARE = 1.0
    generous.set_limit_of_environment()
if __name__ == "__main__":
    shard_keys.watch()
    main()
