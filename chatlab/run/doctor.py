"""`chatlab doctor`: what is installed, what is missing, and the command that fixes it.

The doctor must work on a machine where everything else does not. So it needs only the standard
library, imports everything else inside the check that needs it, and never raises an error.
`python -m chatlab.run.doctor` runs it too. The exit code is 1 if something that a learner needs is
missing.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlab.run.working_copy import in_repository
from chatlab.server_urls import redact

if TYPE_CHECKING:
    from chatlab.local.binaries import Name
    from chatlab.settings import Settings

SERVICE = (
    *("aiohttp", "argon2-cffi", "dnspython", "emoji", "fastapi", "fastapi-swagger", "hiredis"),
    *("httptools", "httpx", "msgspec", "platformdirs", "prometheus-client", "psutil", "pydantic"),
    *("pydantic-settings", "pymongo", "python-socketio", "redis", "rich", "sniffio", "starlette"),
    *("typer", "uvicorn", "uvloop", "websockets", "zxcvbn"),
)
NOT_ON_WINDOWS = {"httptools", "uvloop"}
NOTEBOOKS = (
    *("anywidget", "ipykernel", "ipywidgets", "jupyter-client", "jupyterlab", "matplotlib"),
    "traitlets",
)
TESTS = ("nbval", "playwright", "pytest")
BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"),
    "microsoft-edge",
)
INSTALL_ALL = (
    "pip install --require-hashes -r requirements.lock"
    if in_repository()
    else "pip install 'chatlab-messaging[engines,notebooks]'"
)


@dataclass(frozen=True)
class Finding:
    """One result. `fix` is the command or setting that fixes it.

    `ok` is True if all is well, None for a warning, and False if a learner needs what is missing.
    """

    area: str
    ok: bool | None
    text: str
    fix: str = ""


def diagnose(settings: "Settings | None") -> list[Finding]:
    """Run all checks in order. Without settings, leave out those that depend on them."""
    checks = (python, service_libraries, notebook_libraries, jupyter, tests, known_holes)
    findings = [finding for check in checks for finding in _run_check(check)]
    if settings is not None:
        for check in (mongodb, redis, installation, data_folder, port):
            findings += _run_check(check, settings)
    return findings


def _run_check(check: Callable[..., Iterator[Finding]], *arguments: object) -> list[Finding]:
    """Return the findings of a check. An exception ends it, and becomes one more finding."""
    area, found = check.__name__.replace("_", " "), []
    try:
        for finding in check(*arguments):
            found.append(finding)  # noqa: PERF402 - keep the findings from before an exception
    except ImportError as error:
        text = f"cannot be checked because the library {error.name} is missing"
        found.append(Finding(area, False, text, f"pip install {error.name}"))
    except Exception as error:  # noqa: BLE001 - an error in one check must not stop the others
        found.append(Finding(area, None, f"could not be checked: {redact(str(error))}"))
    return found


# --- Python and its libraries -------------------------------------------------------------------


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 16)
    fix = "" if fits else "make PYTHON=/path/to/python3.12"
    yield Finding("Python", fits, f"{version} ({sys.executable})", fix)


def service_libraries() -> Iterator[Finding]:
    """Check the libraries of the service."""
    skipped = NOT_ON_WINDOWS if sys.platform == "win32" else set()
    names = tuple(name for name in SERVICE if name not in skipped)
    yield _libraries("service libraries", names, missing_is=False)


def notebook_libraries() -> Iterator[Finding]:
    """Check the libraries of the notebooks."""
    yield _libraries("notebook libraries", NOTEBOOKS, missing_is=False)


def tests() -> Iterator[Finding]:
    """Check what the tests need. Learners do not run them, so what is missing is a warning.

    A wheel has no tests.
    """
    if not in_repository():
        return
    yield _libraries("test libraries", TESTS, missing_is=None)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None) or _playwright_browser()
    if browser:
        yield Finding("browser for tests", True, browser)
    else:
        yield Finding("browser for tests", None, "none found", "playwright install chromium")


def _libraries(area: str, names: tuple[str, ...], *, missing_is: bool | None) -> Finding:
    missing = [name for name in names if not _version(name)]
    if missing:
        fix = f"pip install {' '.join(missing)}" if len(missing) < 4 else INSTALL_ALL
        return Finding(area, missing_is, f"missing: {', '.join(missing)}", fix)
    first, last = (f"{name} {_version(name)}" for name in (names[0], names[-1]))
    return Finding(area, True, f"all {len(names)} are installed ({first} to {last})")


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _playwright_browser() -> str | None:
    """Return the folder of a Chromium that Playwright has installed."""
    configured = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    places = [configured, "~/.cache/ms-playwright", "~/Library/Caches/ms-playwright"]
    folders = [Path(place).expanduser() for place in places if place]
    return next((str(found) for folder in folders for found in folder.glob("chromium*")), None)


def jupyter() -> Iterator[Finding]:
    """Check JupyterLab and its Python kernel."""
    scripts = str(Path(sys.executable).parent)
    lab = shutil.which("jupyter-lab", path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if lab:
        yield Finding("JupyterLab", True, lab)
    else:
        text = f"no jupyter-lab in {scripts} or on the PATH"
        yield Finding("JupyterLab", False, text, "pip install jupyterlab")
    from jupyter_client.kernelspec import KernelSpecManager

    kernel = KernelSpecManager().find_kernel_specs().get("python3")
    if kernel:
        yield Finding("kernel", True, kernel)
    else:
        yield Finding("kernel", False, "Jupyter has no Python kernel", "pip install ipykernel")


# --- MongoDB and Redis --------------------------------------------------------------------------


def mongodb(settings: "Settings") -> Iterator[Finding]:
    """Check MongoDB."""
    yield from _engine("mongo", settings.mongo_url, settings)


def redis(settings: "Settings") -> Iterator[Finding]:
    """Check Redis."""
    yield from _engine("redis", settings.redis_url, settings)


def _engine(name: "Name", url: str | None, settings: "Settings") -> Iterator[Finding]:
    if sys.platform == "win32" and not url:
        yield Finding(name, False, "private servers need Linux or macOS", "docker compose up")
        return
    from chatlab.errors import EngineError
    from chatlab.local.binaries import KINDS
    from chatlab.local.versions import old_version

    label, program = KINDS[name].label, KINDS[name].programs[0]
    try:
        version, finding = _configured(name, settings) if url else _installed(name, settings)
    except EngineError as error:
        yield Finding(label, False, error.detail, error.fix)
        return
    yield finding
    if version and (warning := old_version(label, version)):
        fix = f"install a newer {program} on the PATH, if others can reach this machine's files"
        yield Finding(label, None, warning, fix)


def _configured(name: "Name", settings: "Settings") -> tuple[str, Finding]:
    """Return the version, or an empty one if there is a warning about the server already."""
    from chatlab.local.readiness import check_configured
    from chatlab.local.versions import old_version

    engine = check_configured(name, settings)
    if engine.warning and engine.warning != old_version(engine.name, engine.version):
        fix = engine.fix or f"start it, or correct CHATLAB_{name.upper()}_URL"
        ok = None if engine.version else False
        return "", Finding(engine.name, ok, f"{engine.version} {engine.warning}".strip(), fix)
    return engine.version, Finding(engine.name, True, f"{engine.version} (as configured)")


def _installed(name: "Name", settings: "Settings") -> tuple[str, Finding]:
    from chatlab.local.binaries import KINDS, find_program

    program = find_program(name, settings)
    text = f"{program.version} ({program.path})"
    return program.version, Finding(KINDS[name].label, True, text)


def known_holes() -> Iterator[Finding]:
    """Check the age of the table that says which versions have known security holes."""
    from chatlab.local.versions import CHECKED, OLD_AFTER_MONTHS, months_since_check

    months = months_since_check(datetime.now(tz=UTC).date())
    text = f"the table of versions was last checked on {CHECKED}, {months} months ago"
    is_new = months < OLD_AFTER_MONTHS
    fix = "" if is_new else "install a newer chatlab, and read the release notes of your servers"
    yield Finding("security holes", is_new or None, text, fix)


def installation(settings: "Settings") -> Iterator[Finding]:
    """Check that no other installation uses the keys of this one in Redis."""
    if not (settings.mongo_url and settings.redis_url):
        return
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError
    from redis.exceptions import RedisError

    from chatlab.cache.keys import Keys
    from chatlab.connections.cluster import hash_tags
    from chatlab.connections.redis import connect_blocking

    # Whatever is wrong with a server itself has been said before.
    with (
        contextlib.suppress(PyMongoError, RedisError, ValueError),
        MongoClient[dict[str, Any]](settings.mongo_url, timeoutMS=1500) as mongo,
        connect_blocking(settings.redis_url, 1.5) as redis,
    ):
        found = mongo[settings.database]["installation"].find_one({"_id": "installation"}) or {}
        claims = [Keys(settings.key_prefix, tag).claim for tag in hash_tags(redis)]
        holders = {str(holder, "utf-8") for claim in claims if (holder := redis.lindex(claim, 0))}
        ours = f"{found.get('id', 'not stored yet')} in {settings.database}"
        others = holders - {found.get("id")}
        if not others:
            yield Finding("installation", True, ours)
        else:
            text = f"{min(others)} uses the keys in Redis that this one would use ({ours})"
            fix = "set CHATLAB_KEY_PREFIX, or another number of the database in CHATLAB_REDIS_URL"
            yield Finding("installation", False, text, fix)


def data_folder(settings: "Settings") -> Iterator[Finding]:
    """Check that the data folder of the private servers is writable and has enough disk space."""
    if settings.mongo_url and settings.redis_url:
        return
    from chatlab.local.data_folder import FIX_DISK, FIX_FOLDER, DataFolder

    folder = DataFolder(settings)
    existing = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("data folder", True, str(folder.path))
    else:
        yield Finding("data folder", False, f"{existing} is not a writable folder", FIX_FOLDER)
    free, needed = shutil.disk_usage(existing).free, folder.needed_disk_bytes()
    space = f"{free >> 20} MB free, {needed >> 20} MB needed"
    yield Finding("free disk", free >= needed, space, "" if free >= needed else FIX_DISK)
    moved = not folder.run.is_relative_to(folder.path)
    note = " (the path of the data folder is too long for a socket)" if moved else ""
    yield Finding("sockets", True, f"{folder.run}{note}")


def port(settings: "Settings") -> Iterator[Finding]:
    """Check that the port is free, or that chatlab already uses it."""
    url = f"http://{settings.host}:{settings.port}"
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        if _is_chatlab(url):
            yield Finding("port", True, f"chatlab already answers at {url}")
        else:
            fix = f"chatlab serve --port {settings.port + 1}"
            yield Finding("port", None, f"cannot listen on {url}: {error.strerror}", fix)
    else:
        yield Finding("port", True, f"{url} is free")


def _is_chatlab(url: str) -> bool:
    with (
        contextlib.suppress(OSError, ValueError),
        urllib.request.urlopen(f"{url}/openapi.json", timeout=2) as response,  # noqa: S310
    ):
        title: object = json.load(response)["info"]["title"]
        return title == "chatlab"
    return False


# --- the report ---------------------------------------------------------------------------------

MARKS = {True: ("ok", "green"), None: ("warning", "yellow"), False: ("missing", "red")}


def report(findings: list[Finding], console: Any = None) -> int:
    """Print the findings, each with its fix on the next line, and return the exit code.

    Without a rich console, print plain text.
    """
    if console is not None:
        _print_table(findings, console)
    else:
        _print_lines(findings)
    return int(any(finding.ok is False for finding in findings))


def _print_table(findings: list[Finding], console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark, color = MARKS[finding.ok]
        text = Text(finding.text)
        if finding.fix:
            text.append(f"\n→ {finding.fix}", style="bold")
        table.add_row(Text(mark, style=color), finding.area, text)
    console.print(table)


def _print_lines(findings: list[Finding]) -> None:
    for finding in findings:
        sys.stdout.write(f"{MARKS[finding.ok][0]:8} {finding.area:19} {finding.text}\n")
        if finding.fix:
            sys.stdout.write(f"{'':28} -> {finding.fix}\n")


def run(settings: "Settings | None", *more: Finding) -> int:
    """Run all checks, print their findings and these, and return the exit code."""
    console = None
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console

            console = Console()
    return report([*diagnose(settings), *more], console)


def main() -> int:
    """Run the doctor, without settings if they are wrong or cannot be loaded."""
    try:
        from chatlab.settings import SettingsError, load_settings
    except ImportError:
        return run(None)
    try:
        settings = load_settings()
    except SettingsError as error:
        lines, fix = str(error).splitlines(), "correct or unset the variable"
        return run(None, *(Finding("setting", False, line, fix) for line in lines))
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
