"""Run the demo: start the servers, run the scenario, print the summary, and delete all traces."""

import asyncio
import contextlib
import dataclasses
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from chatlab.demo.promises import PromiseResult, check_promises
from chatlab.demo.record import DemoRecord, Milestones
from chatlab.demo.scenario import EXPECTED_ERRORS, Draw, run_scenario
from chatlab.demo.screen import is_animated, open_screen, show_status
from chatlab.demo.servers import DemoServers
from chatlab.demo.summary import failure_sentences, measured_figures, summary_table
from chatlab.errors import EngineError
from chatlab.local.engines import Engine, open_engines
from chatlab.run.child import child_service
from chatlab.settings import PREFIX, CacheMode, Settings

DIAGRAM_TIMES_S = (0, 2, 5, 6)


def run(settings: Settings, console: Console, svg: Path | None) -> int:
    """Run the whole demo and return its exit status."""
    with open_servers(settings, console) as servers:
        with open_screen(console, svg) as draw:
            _announce_scaled_times(settings, console)
            record = _run_scenario(servers, settings, draw)
        results = check_promises(record)
        _print_results(results, record, console)
    return 0 if all(result.seen for result in results) else 1


def _run_scenario(servers: DemoServers, settings: Settings, draw: Draw) -> DemoRecord:
    try:
        return asyncio.run(run_scenario(servers, settings, draw))
    except EXPECTED_ERRORS as error:  # it failed before the first message was sent
        reason = str(error) or type(error).__name__
        raise EngineError(f"The demo could not start: {reason}", "chatlab doctor") from None


# --- the servers -------------------------------------------------------------------------------


@contextlib.contextmanager
def open_servers(settings: Settings, console: Console, **changed: object) -> Iterator[DemoServers]:
    """Start MongoDB, Redis and the service with a private database and key prefix.

    `changed` are further settings of the service. Everything is stopped and deleted when the block ends.
    """
    with contextlib.ExitStack() as stack:
        with show_status(console, "starting MongoDB and Redis"):
            engines = stack.enter_context(open_engines(settings))
        namespace = f"demo-{secrets.token_hex(4)}"
        servers = DemoServers("", engines.mongo.url, engines.redis.url, namespace)
        stack.callback(servers.delete_data)
        versions = f"{_version(engines.mongo)}, {_version(engines.redis)}"
        with show_status(console, f"{versions}; starting the service"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chatlab-demo-"))
            given = _service_settings(settings, servers, folder).model_copy(update=changed)
            url = stack.enter_context(child_service(given))
        try:
            yield dataclasses.replace(servers, url=url)
        finally:
            with show_status(console, "cleaning up"):
                stack.close()


def _version(engine: Engine) -> str:
    return f"{engine.name} {engine.version or '(cannot be used yet)'}"


def _service_settings(settings: Settings, servers: DemoServers, folder: str) -> Settings:
    """Return the settings of the demo's service.

    It has one worker, because `/flow` shows only the events of its own process, and its own data
    folder, so that other commands do not find it.
    """
    return settings.model_copy(
        update={
            "mongo_url": servers.mongo_url,
            "redis_url": servers.redis_url,
            "database": servers.namespace,
            "key_prefix": servers.keys.prefix,
            "data_dir": Path(folder),
            "host": "127.0.0.1",
            "port": 0,
            "workers": 1,
            "rate_limit": 0,
        }
    )


# --- the results -------------------------------------------------------------------------------


def _announce_scaled_times(settings: Settings, console: Console) -> None:
    milestones = Milestones.of(settings)
    if tuple(milestones) == DIAGRAM_TIMES_S:
        return
    scaled = ", ".join(f"{seconds:g}" for seconds in milestones)
    console.print(
        f"TTL {milestones.expired_s:g} s, one sweep every {settings.sweep_interval:g} s: the diagram's 0, 2, 5, 6 s are {scaled} s here.",
        soft_wrap=True,
    )


def _print_results(results: list[PromiseResult], record: DemoRecord, console: Console) -> None:
    if is_animated(console):
        console.print(summary_table(results))
    else:
        for result in results:
            seen = "seen" if result.seen else "not seen"
            line = f"{seen:<10}{result.promise:<40}{measured_figures(result)}"
            console.print(line, soft_wrap=True, markup=False)
    if all(result.seen for result in results):
        console.print(f"[green]All {len(results)} promises of the diagram were seen.[/green]")
        return
    not_seen = sum(not result.seen for result in results)
    console.print(f"[red]{not_seen} of the diagram's {len(results)} promises were not seen:[/red]")
    for sentence in [*failure_sentences(results), *_explanations(record)]:
        console.print(f"  {sentence}", soft_wrap=True, markup=False)


def _explanations(record: DemoRecord) -> list[str]:
    """Return the errors that stopped the demo, and the settings that break the diagram."""
    settings = record.settings
    explanations = [
        f"The {message.transport_name} message could not be followed to the end: {message.error}"
        for message in record.messages
        if message.error
    ]
    if settings.cache_mode is CacheMode.OFF:
        explanations.append(
            f"{PREFIX}CACHE_MODE=off: the service does not write to Redis, so no entry can be cached or expire."
        )
    if not settings.sweeper:
        explanations.append(f"{PREFIX}SWEEPER=false: the service ran without its sweeper.")
    if settings.sweep_interval >= settings.cache_ttl:
        explanations.append(
            f"With one sweep every {settings.sweep_interval:g} s, "
            f"a key with a TTL of {settings.cache_ttl:g} s can expire before any sweep finds it."
        )
    return explanations
