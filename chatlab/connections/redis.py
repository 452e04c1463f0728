"""Redis: the clients of redis-py with their options.

No client retries: its caller decides when to try again. If the URL names Sentinels, each new
connection asks them for the address of the primary. `cluster.py` has the client of a Redis Cluster.
"""

from collections.abc import Callable
from typing import Any

import redis
from redis import sentinel as blocking_sentinel
from redis.asyncio import Redis, sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url as parse_url_blocking
from redis.exceptions import RedisClusterException
from redis.retry import Retry as BlockingRetry

from chatlab.server_urls import ClusterUrl, SentinelUrl

Options = dict[str, Any]


class PrimaryOfSentinel(Redis):
    """A client of the primary, which closes the connections to the Sentinels with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        await pool.sentinel_manager.aclose()


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client.

    `timeout_s` limits the time until a connection is made, and until a reply arrives.
    """
    limits = _limits(timeout_s, Retry(NoBackoff(), 0))
    if (names := SentinelUrl.of(url)) is None:
        return Redis.from_url(url, **limits)
    of_redis, of_sentinel = _options(names, limits, parse_url)
    # redis-py has no types here.
    manager = sentinel.Sentinel(names.places, sentinel_kwargs=of_sentinel)  # type: ignore[no-untyped-call]
    client: Redis = manager.master_for(names.service, PrimaryOfSentinel, **of_redis)
    return client


def connect_blocking(url: str, timeout_s: float) -> redis.Redis:
    """Return a client for code without an event loop.

    That of a cluster asks for the topology at once, and raises what redis-py raises.
    """
    limits = _limits(timeout_s, BlockingRetry(NoBackoff(), 0))
    if nodes := ClusterUrl.of(url):
        return connect_to_cluster(nodes, limits)
    if (names := SentinelUrl.of(url)) is None:
        return redis.Redis.from_url(url, **limits)
    of_redis, of_sentinel = _options(names, limits, parse_url_blocking)
    manager = blocking_sentinel.Sentinel(names.places, sentinel_kwargs=of_sentinel)  # type: ignore[no-untyped-call]
    client: redis.Redis = manager.master_for(names.service, **of_redis)  # type: ignore[no-untyped-call]
    return client


def connect_to_cluster(nodes: ClusterUrl, limits: Options) -> redis.Redis:
    """Return redis-py's client of a cluster, for code without an event loop.

    `limits` are its other options.
    """
    options = cluster_options(nodes, limits, parse_url_blocking)
    startup_nodes = [ClusterNode(host, port) for host, port in nodes.places]  # type: ignore[no-untyped-call]
    try:
        client: Any = RedisCluster(startup_nodes=startup_nodes, **options)
    except RedisClusterException as error:  # the only one that is no RedisError
        raise redis.ConnectionError(str(error)) from error
    return client  # type: ignore[no-any-return]  # it has the commands of a client of one server


def cluster_options(nodes: ClusterUrl, limits: Options, parse: Callable[[str], Any]) -> Options:
    """Return the options of connections to the nodes of a cluster."""
    options = {**parse(nodes.of_node("node", 1)), **limits, "require_full_coverage": False}
    for name in ("host", "port", "db"):
        del options[name]
    if options.pop("connection_class", None):
        options["ssl"] = True
    return options


def _limits(timeout_s: float, retry: Retry | BlockingRetry) -> Options:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": retry,
        "health_check_interval": 0,
    }


def _options(
    names: SentinelUrl, limits: Options, parse: Callable[[str], Any]
) -> tuple[Options, Options]:
    """Return the options of connections to the primary and to the Sentinels.

    All Sentinels together get the time of one connection, so one that is silent does not use up the
    time of the others. TLS is used for both kinds of connections or for none.
    """
    of_redis = {**parse(names.redis_url), **limits}
    del of_redis["host"]
    if of_redis.pop("connection_class", None):
        of_redis["ssl"] = True
    of_sentinel = {name: value for name, value in of_redis.items() if name.startswith("ssl")}
    share_s = limits["socket_timeout"] / (len(names.places) + 1)
    times = {"socket_timeout": share_s, "socket_connect_timeout": share_s}
    return of_redis, of_sentinel | limits | times | names.user
