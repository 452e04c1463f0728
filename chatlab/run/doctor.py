"""What is installed, what is missing, and the command that mends it.

It must work where everything else does not: it needs the standard library alone, loads the rest only to look at it, and never raises.
`chatlab doctor` and `python -m chatlab.run.doctor` print the findings; the exit code is 1 if anything a learner needs is missing.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlab.local.binaries import Name
    from chatlab.settings import Settings

SERVICE = (
    *("aiohttp", "argon2-cffi", "emoji", "fastapi", "fastapi-swagger", "hiredis", "httptools", "httpx", "msgspec", "platformdirs"),
    *("prometheus-client", "psutil", "pydantic", "pydantic-settings", "pymongo", "python-socketio", "redis", "rich", "starlette"),
    *("typer", "uvicorn", "uvloop", "websockets"),
)
NOTEBOOKS = ("anywidget", "ipykernel", "ipywidgets", "jupyter-client", "jupyterlab", "traitlets")
TESTS = ("nbval", "playwright", "pytest")
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge")


@dataclass(frozen=True)
class Finding:
    """`ok`: True is well, None is a warning, False is something a learner needs and does not have. `mend` is a command or a setting."""

    area: str
    ok: bool | None
    text: str
    fix: str = ""


def diagnose(settings: "Settings | None") -> list[Finding]:
    """Everything, one after the other; without settings what can be seen without them."""
    findings = [finding for check in (python, service_libraries, notebook_libraries, jupyter, tests) for finding in _safely(check)]
    if settings is not None:
        for check in (mongodb, redis, data_folder, port):
            findings += _safely(check, settings)
    return findings


def _safely(check: Callable[..., Iterator[Finding]], *given: object) -> list[Finding]:
    area, found = check.__name__.replace("_", " "), []
    try:
        for finding in check(*given):
            found.append(finding)  # noqa: PERF402 - what was found before it went wrong counts
    except ImportError as missing:
        found.append(Finding(area, False, f"cannot be looked at without {missing.name}", f"pip install {missing.name}"))
    except Exception as wrong:  # noqa: BLE001 - the doctor never falls ill itself
        found.append(Finding(area, None, f"could not be looked at: {wrong}"))
    return found


def python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Finding("Python", fits, f"{version} ({sys.executable})", "" if fits else "make PYTHON=/path/to/python3.12")


def service_libraries() -> Iterator[Finding]:
    wanted = SERVICE if sys.platform != "win32" else tuple(name for name in SERVICE if name not in {"httptools", "uvloop"})
    yield _libraries("service libraries", wanted, missing_is=False)


def notebook_libraries() -> Iterator[Finding]:
    yield _libraries("notebook libraries", NOTEBOOKS, missing_is=False)


def tests() -> Iterator[Finding]:
    yield _libraries("test libraries", TESTS, missing_is=None)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None) or _playwrights_own()
    yield Finding("browser for tests", True if browser else None, browser or "none found", "" if browser else "playwright install chromium")


def _libraries(area: str, wanted: tuple[str, ...], *, missing_is: bool | None) -> Finding:
    missing = [name for name in wanted if not _version(name)]
    if missing:
        mend = f"pip install {' '.join(missing)}" if len(missing) < 4 else "pip install --require-hashes -r requirements.lock"
        return Finding(area, missing_is, f"missing: {', '.join(missing)}", mend)
    return Finding(area, True, f"all {len(wanted)} are there ({wanted[0]} {_version(wanted[0])} to {wanted[-1]} {_version(wanted[-1])})")


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _playwrights_own() -> str | None:
    homes = [os.environ.get("PLAYWRIGHT_BROWSERS_PATH"), "~/.cache/ms-playwright", "~/Library/Caches/ms-playwright"]
    found = (folder for home in homes if home for folder in Path(home).expanduser().glob("chromium*"))
    return next(map(str, found), None)


def jupyter() -> Iterator[Finding]:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    lab = shutil.which("jupyter-lab", path=beside)
    yield Finding(
        "JupyterLab", bool(lab), lab or "no jupyter-lab beside this Python or on the PATH", "" if lab else "pip install jupyterlab"
    )
    from jupyter_client.kernelspec import KernelSpecManager

    kernel = KernelSpecManager().find_kernel_specs().get("python3")
    yield Finding("kernel", bool(kernel), kernel or "no Python kernel", "" if kernel else "pip install ipykernel")


def mongodb(settings: "Settings") -> Iterator[Finding]:
    yield from _engine("mongo", settings.mongo_url, settings)


def redis(settings: "Settings") -> Iterator[Finding]:
    yield from _engine("redis", settings.redis_url, settings)


def _engine(name: "Name", url: str | None, settings: "Settings") -> Iterator[Finding]:
    if sys.platform == "win32" and not url:
        yield Finding(name, False, "private engines need Linux or macOS", "docker compose up")
        return
    from chatlab.errors import EngineError
    from chatlab.local.binaries import KINDS, find_program, old_version
    from chatlab.local.readiness import check_configured

    label = KINDS[name].label
    try:
        if url:
            engine = check_configured(name, url)
            yield Finding(
                label, bool(engine.version), f"{engine.version or engine.warning} (as configured)", "" if engine.version else "start it"
            )
            version = engine.version
        else:
            program = find_program(name, settings)
            yield Finding(label, True, f"{program.version} ({program.path})")
            version = program.version
    except EngineError as wrong:
        yield Finding(label, False, wrong.detail, wrong.fix)
        return
    if version and (warning := old_version(name, version)):
        yield Finding(
            label, None, warning, f"install a newer {KINDS[name].programs[0]} on the PATH, if others can reach this machine's files"
        )


def data_folder(settings: "Settings") -> Iterator[Finding]:
    if settings.mongo_url and settings.redis_url:
        return
    from chatlab.local.data_folder import FIX_DISK, FIX_FOLDER, DataFolder

    folder = DataFolder(settings)
    there = next(place for place in (folder.path, *folder.path.parents) if place.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    yield Finding("data folder", writable, str(folder.path) if writable else f"{there} cannot be written", "" if writable else FIX_FOLDER)
    free, needed = shutil.disk_usage(there).free, folder.needed_disk_bytes()
    yield Finding("free disk", free >= needed, f"{free >> 20} MB; {needed >> 20} MB are needed", "" if free >= needed else FIX_DISK)
    text = str(folder.run) + ("" if folder.run.is_relative_to(folder.path) else " (the data folder's own path is too long for a socket)")
    yield Finding("sockets", True, text)


def port(settings: "Settings") -> Iterator[Finding]:
    place = f"http://{settings.host}:{settings.port}"
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as wrong:
        if _is_chatlab(place):
            yield Finding("port", True, f"a chatlab already answers at {place}")
        else:
            yield Finding("port", None, f"{place}: {wrong.strerror}", f"chatlab serve --port {settings.port + 1}")
    else:
        yield Finding("port", True, f"{place} is free")


def _is_chatlab(place: str) -> bool:
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(f"{place}/openapi.json", timeout=2) as answer:  # noqa: S310
        title: object = json.load(answer)["info"]["title"]
        return title == "chatlab"
    return False


def report(findings: list[Finding], console: Any = None) -> int:
    """Print them, with what mends each beneath it. Gives the exit code. Without a rich console: plain lines."""
    show = _rich if console is not None else _plain
    show(findings, console)
    return int(any(finding.ok is False for finding in findings))


MARKS = {True: ("ok", "green"), None: ("warning", "yellow"), False: ("missing", "red")}


def _rich(findings: list[Finding], console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark, color = MARKS[finding.ok]
        words = Text(finding.text)
        if finding.fix:
            words.append(f"\n→ {finding.fix}", style="bold")
        table.add_row(Text(mark, style=color), finding.area, words)
    console.print(table)


def _plain(findings: list[Finding], _console: Any) -> None:
    for finding in findings:
        sys.stdout.write(f"{MARKS[finding.ok][0]:8} {finding.area:19} {finding.text}\n")
        if finding.fix:
            sys.stdout.write(f"{'':28} -> {finding.fix}\n")


def run(settings: "Settings | None", *more: Finding) -> int:
    """Look at everything, print it with what is known already, and give the exit code."""
    console = None
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console

            console = Console()
    return report([*diagnose(settings), *more], console)


def main() -> int:
    try:
        from chatlab.settings import SettingsError, load_settings
    except ImportError:
        return run(None)
    try:
        settings = load_settings()
    except SettingsError as wrong:
        return run(None, *(Finding("setting", False, line, "correct or unset the variable") for line in str(wrong).splitlines()))
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
