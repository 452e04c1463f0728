"""`chatlab sweep`: the sweeper in a process of its own."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from rich.console import Console

from chatlab.cache.cluster_sweeper import create_sweeper
from chatlab.domain.trace import EventBus
from chatlab.local.engines import Engine, open_engines
from chatlab.local.readiness import check_configured
from chatlab.run.console import describe_engine, greet
from chatlab.settings import Settings
from chatlab.web.exit_deadline import stop_at_hang_up


def sweep(settings: Settings, console: Console) -> None:
    """Sweep until Ctrl-C or SIGTERM."""
    with _open_redis(settings) as redis:
        greet(
            console,
            settings,
            f"Sweeping {settings.key_prefix}message:* every {settings.sweep_interval:g} s. "
            f"Ctrl-C stops. {describe_engine(redis)}",
        )
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_sweep(settings, redis.url))


@contextlib.contextmanager
def _open_redis(settings: Settings) -> Iterator[Engine]:
    """Yield the Redis to sweep.

    If the settings name one, MongoDB is neither started nor contacted.
    """
    if settings.redis_url:
        yield check_configured("redis", settings)
    else:
        with open_engines(settings) as engines:
            yield engines.redis


async def _sweep(settings: Settings, url: str) -> None:
    task = asyncio.current_task()
    assert task
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    stop_at_hang_up()
    with contextlib.suppress(asyncio.CancelledError):
        await create_sweeper(url, settings, EventBus()).run()
