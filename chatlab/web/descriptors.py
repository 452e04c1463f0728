"""File descriptors: each connection needs one, and some must be left for everything else."""

import contextlib
import logging
import resource

import psutil

from chatlab.settings import PREFIX

log = logging.getLogger(__name__)

HEALTH_CHECKS = 16  # connections from this machine, above the limit of all connections
RESERVED = 160  # 100 for the pool of MongoDB's driver, the others for Redis, files and listeners
FEWEST_CONNECTIONS = 32


def raise_limit(max_connections: int) -> None:
    """Raise the limit of this process for this many connections, as far as the system allows."""
    wanted = max_connections + HEALTH_CHECKS + 2 * RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit_connections(max_connections: int) -> int:
    """Return how many connections, at most `max_connections`, leave enough descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_connections
    free = soft - psutil.Process().num_fds() - RESERVED - HEALTH_CHECKS
    if free >= max_connections:
        return max_connections
    possible = max(FEWEST_CONNECTIONS, free)
    line = "%d file descriptors allow %d connections, fewer than %sMAX_CONNECTIONS=%d"
    log.warning(line, soft, possible, PREFIX, max_connections)
    return possible
