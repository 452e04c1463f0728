"""Every command in the shell blocks of the documentation works.

WAYS says how each command is tried. A command that is not in it fails the test.
"""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from documents import PAGES, ROOT, Block, read_page
from http_clients import fetch
from live import free_port
from patient import TTL_S, PatientService
from shared_service import SharedService, start_shared_service
from waiting import LIMIT_S, block_until

from chatlab.local.engines import Engines

BLOCKS = [(page, block) for page in map(read_page, PAGES) for block in page.blocks]
SHELL_BLOCKS = [
    pytest.param(block, id=f"{page.name}: {block.commands[0]}")
    for page, block in BLOCKS
    if block.language == "sh"
]
BIN = Path(sys.executable).parent
LOCAL_URL = "http://127.0.0.1:8000"


@dataclass
class Terminal:
    """Runs the commands of one block in the root of the repository.

    `script` holds the commands that the next one follows, such as `export`. `replaced` maps what
    the documentation writes to what this test uses.
    """

    environment: dict[str, str]
    replaced: dict[str, str]
    script: list[str] = field(default_factory=list)

    def start(self, *commands: str) -> "subprocess.Popen[str]":
        """Start the commands in a process group of their own."""
        text = "\n".join(["set -eu -o pipefail", *self.script, *commands])
        for written, used in self.replaced.items():
            text = text.replace(written, used)
        return subprocess.Popen(
            ["bash", "-c", text],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *commands: str) -> tuple[int, str]:
        """Run the commands, and return their exit status and output."""
        process = self.start(*commands)
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        finally:
            stop(process)
        return process.returncode, output


Way = Callable[[Terminal, str], None]


def runs(output: str, *, status: int = 0, times: int = 1) -> Way:
    """Run the command after those above it, and all of them again. Its output must match."""

    def way(terminal: Terminal, command: str) -> None:
        for _ in range(times):
            found = terminal.run(command)
            assert found[0] == status, found
            assert re.search(output, found[1], re.IGNORECASE), found

    return way


def begins(terminal: Terminal, command: str) -> None:
    """Run the command together with those below it."""
    terminal.script.append(command)


def serves(*paths: str) -> Way:
    """Start the service, request these paths, and stop it with Ctrl-C."""

    def way(terminal: Terminal, command: str) -> None:
        port = free_port()
        terminal.environment["CHATLAB_PORT"] = str(port)
        process = terminal.start(command)
        try:
            wait_until_answered(f"http://127.0.0.1:{port}/readyz", process)
            for path in paths:
                assert fetch(f"http://127.0.0.1:{port}{path}").status_code == 200
        finally:
            stop(process)

    return way


def print_recipe(terminal: Terminal, command: str) -> str:
    """Return what `make` would run. It runs recipes with $(MAKE) all the same, but with `true`."""
    status, output = terminal.run(f"{command} --dry-run SHELL=$(command -v true)")
    assert status == 0, output
    return output


def covered(test: str) -> Way:
    """Check that this other test exists, and for a command of `make` also its target."""

    def way(terminal: Terminal, command: str) -> None:
        file, _, name = test.partition("::")
        tests = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body
        assert name in [getattr(node, "name", None) for node in tests]
        if command.startswith("make "):
            assert f"{BIN}/chatlab" in print_recipe(terminal, command)

    return way


def prints(*programs: str) -> Way:
    """Check that `make` would run these programs, and that they are installed."""

    def way(terminal: Terminal, command: str) -> None:
        recipe = print_recipe(terminal, command)
        for program in programs:
            assert f"{BIN}/{program}" in recipe
            assert (BIN / program.split()[0]).exists()

    return way


API = "api=http://127.0.0.1:8000/api json='Content-Type: application/json'"
TOKEN = r"""token=$(curl -s $api/auth/login -H "$json" -d "$alice" | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')"""
BENCHMARKS = "processes/test_benchmarks.py::test_each_benchmark_gives_figures"
LOCK = "unit/test_packaging.py::test_everything_is_pinned_with_hashes"
WHEEL = "unit/test_packaging.py::test_the_wheel_holds_the_whole_package"
DEMO = "processes/test_demo.py::test_the_demo_sees_every_promise"
COMPOSE = "processes/test_compose.py::test_the_image_is_made_of_files_that_exist"
COMPOSE_LAB = "processes/test_compose.py::test_the_notebooks_have_jupyterlab_behind_a_profile"
DEPLOY_COMPOSE = "unit/test_deploy_compose.py::test_urls_point_to_the_servers_of_the_file"
KUBERNETES = "unit/test_deploy_kubernetes.py::test_kustomize_builds_all_of_it"
WAYS: dict[str, Way] = {
    "make demo": covered(DEMO),
    "make lab": covered("processes/test_docs_commands.py::test_make_lab_opens_the_notebooks"),
    "make serve": serves("/", "/docs"),
    "CHATLAB_FLOW=1 make serve": serves("/", "/lab"),
    "make check": prints("ruff check", "codespell", "lint-imports", "mypy"),
    "make test-quick": prints("python -m pytest"),
    "make test": prints("python -m pytest"),
    "make coverage": prints("coverage run -m pytest", "coverage report"),
    "make test-slow": prints("python -m pytest"),
    "make test-paced": prints("python -m pytest"),
    # the API
    API: begins,
    """alice='{"username": "alice", "password": "correct horse"}'""": begins,
    """curl -s $api/auth/signup -H "$json" -d '{"username": "bob", "password": "correct horse"}'""": begins,
    """curl -s $api/auth/signup -H "$json" -d "$alice\"""": begins,
    TOKEN: begins,
    """curl -s $api/messages/send -H "Authorization: Bearer $token" -H "$json" -d '{"receiverId": "bob", "text": "Hello"}'""": begins,
    """curl -si $api/messages/bob -H "Authorization: Bearer $token\"""": runs(
        "x-cache: hit", times=2
    ),
    "curl -s http://127.0.0.1:8000/healthz": runs('"status": ?"ok"'),
    "curl -s http://127.0.0.1:8000/readyz": runs('"status": ?"ok"'),
    "curl -s http://127.0.0.1:8000/metrics": runs("chatlab_breaker_open"),
    # settings and operations
    "CHATLAB_CACHE_TTL=20 chatlab serve": serves("/"),
    "CHATLAB_CACHE_TTL=-1 chatlab serve": runs("CHATLAB_CACHE_TTL=-1: ", status=2),
    "chatlab serve --help": runs("CHATLAB_CACHE_TTL"),
    "export CHATLAB_MONGO_URL='mongodb://db1,db2,db3/?replicaSet=rs0'": begins,
    "export CHATLAB_REDIS_URL='redis://cache:6379/0'": begins,
    "chatlab serve --host 0.0.0.0 --workers 2": serves("/"),
    "CHATLAB_STALE_READS=1 chatlab serve --replica-set": covered(
        "cluster/test_replica_set.py::test_without_a_primary_only_stale_reads_work"
    ),
    "chatlab migrate --shard": covered("cluster/test_shards.py::test_a_shard_accepts_the_keys"),
    "export CHATLAB_REDIS_URL='redis+sentinel://user:password@sentinel1,sentinel2,sentinel3/chat/0'": begins,
    "export CHATLAB_REDIS_URL='redis+cluster://user:password@redis1,redis2,redis3'": begins,
    "chatlab serve --redis-cluster": covered(
        "cluster/test_redis_cluster.py::test_the_command_starts_a_private_cluster"
    ),
    "chatlab migrate": covered("processes/test_migrations.py::test_chatlab_migrate"),
    "python3 -m venv .venv && . .venv/bin/activate": covered(LOCK),
    "pip install --require-hashes -r requirements.lock": covered(LOCK),
    "pip install --no-deps --no-build-isolation -e .": covered(WHEEL),
    "pip wheel --no-deps --wheel-dir dist .": covered(WHEEL),
    'pip install "$(echo dist/chatlab_messaging-*.whl)[engines,notebooks]"': covered(WHEEL),
    "chatlab lab": covered("processes/test_docs_commands.py::test_make_lab_opens_the_notebooks"),
    "chatlab lab --copy-only": covered(
        "unit/test_working_copy.py::test_a_copy_is_made_without_jupyterlab"
    ),
    "conda env create -f environment.yml && conda activate chatlab": covered(
        "unit/test_packaging.py::test_conda_and_binder_install_from_the_lock"
    ),
    "docker compose up --build": covered(COMPOSE),
    "docker compose --profile lab up --build": covered(COMPOSE_LAB),
    # deploy
    "docker compose --file deploy/compose.yaml up --build --wait": covered(DEPLOY_COMPOSE),
    "docker compose --file deploy/compose.yaml --profile monitoring up --build --wait": covered(
        "unit/test_monitoring.py::test_prometheus_scrapes_every_process_of_the_compose_file"
    ),
    "for n in 1 2 3; do docker compose --file deploy/compose.yaml up --build --detach --wait --no-deps --force-recreate service-$n; done": covered(
        "processes/test_rolling_restart.py::test_no_request_fails_while_processes_restart"
    ),
    "kubectl apply --filename deploy/kubernetes/namespace.yaml": covered(KUBERNETES),
    "kubectl --namespace chatlab create secret generic chatlab --from-env-file secrets.env": covered(
        "unit/test_deploy_kubernetes.py::test_urls_are_in_a_secret_that_is_not_in_the_repository"
    ),
    "kubectl apply --kustomize deploy/kubernetes": covered(KUBERNETES),
    "kubectl --namespace chatlab rollout status deployment/chatlab": covered(KUBERNETES),
    "promtool test rules deploy/prometheus/rules.test.yml": covered(
        "unit/test_monitoring.py::test_alerts_fire_when_they_should"
    ),
    "chatlab demo": covered(DEMO),
    "chatlab user reset-password alice": covered(
        "processes/test_accounts_everywhere.py::test_an_operator_resets_a_password"
    ),
    "chatlab bench": covered(
        "processes/test_bench.py::test_every_row_of_the_performance_table_is_measured"
    ),
    # tests and benchmarks
    "python -m pytest tests/processes/test_window.py -k guard": covered(
        "processes/test_window.py::test_each_guard_is_needed"
    ),
    "python -m benchmarks": covered(BENCHMARKS),
    "python -m benchmarks sends cached": covered(BENCHMARKS),
    "python -m benchmarks growth": covered(BENCHMARKS),
    "python -m benchmarks costs": covered(BENCHMARKS),
    "python -m benchmarks.capacity": covered(
        "unit/test_capacity.py::test_the_tables_of_the_page_are_those_of_the_result"
    ),
    "python -m benchmarks sends uncached --users 60 --mongo-url mongodb://127.0.0.1:27017 --redis-url redis://127.0.0.1:6379": covered(
        "processes/test_benchmarks.py::test_given_engines_are_used_and_left_empty"
    ),
    "python -m benchmarks --page": covered(
        "processes/test_benchmarks.py::test_the_page_has_every_benchmark"
    ),
}


@pytest.fixture(scope="module")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """The running service that some commands ask. Its users are those of the commands."""
    log = tmp_path_factory.mktemp("shared") / "service.log"
    with start_shared_service(engines, log, PatientService, CACHE_TTL=str(TTL_S)) as shared:
        yield shared


@pytest.fixture
def terminal(engines: Engines, space: str, tmp_path: Path) -> Terminal:
    """A terminal whose services use the engines of the tests, and whose `make` installs nothing."""
    installed = tmp_path / "installed"
    installed.touch()
    os.utime(installed, (2e9, 2e9))  # newer than every lock
    settings = {
        "MONGO_URL": engines.mongo.url,
        "REDIS_URL": engines.redis.url,
        "DATABASE": space,
        "KEY_PREFIX": f"{space}:",
    }
    inherited = {"ARGS", "JOBS", "PYTHON"}  # of the `make test` that runs this test
    environment = {
        name: value
        for name, value in os.environ.items()
        if "CHATLAB" not in name and name not in inherited
    }
    environment |= {f"CHATLAB_{name}": value for name, value in settings.items()} | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "MAKEFLAGS": f"BIN={BIN} INSTALLED={installed}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return Terminal(
        environment,
        {
            "mongodb://db1,db2,db3/?replicaSet=rs0": engines.mongo.url,
            "redis://cache:6379/0": engines.redis.url,
        },
    )


def wait_until_answered(url: str, process: "subprocess.Popen[str]") -> None:
    """Wait until the service behind this URL is ready."""

    def status() -> int | str:
        assert process.poll() is None, process.communicate()[0]
        try:
            return fetch(url, follow_redirects=True).status_code
        except httpx.TransportError as error:
            return str(error)

    block_until(status, f"{url} to answer", is_reached=lambda seen: seen == 200)


def stop(process: "subprocess.Popen[str]") -> None:
    """Press Ctrl-C until all processes of the group have ended."""

    def has_ended() -> bool:
        process.poll()
        try:
            os.killpg(process.pid, signal.SIGINT)
        except ProcessLookupError:
            return True
        return False

    try:
        block_until(has_ended, "the end of the command")
    finally:
        process.communicate()


def test_every_block_has_a_language() -> None:
    """So no command is overlooked. Blocks of notebooks are diagrams and have none."""
    languages = {block.language for page, block in BLOCKS if page.path.suffix == ".md"}
    assert languages == {"sh", "text", "mermaid", "python"}


def test_a_program_can_use_the_private_servers(engines: Engines) -> None:
    """The lines of Python in the documentation connect to both servers."""
    page = read_page(ROOT / "docs" / "operations.md")
    (block,) = (block for block in page.blocks if block.language == "python")
    run = engines.redis.url.removeprefix("unix://").removesuffix("/redis.sock")
    names: dict[str, Any] = {}
    exec(block.text.replace("/path/to/the/data/folder/run", run), names)  # noqa: S102 - our own
    with names["db"].client, names["r"]:
        assert names["r"].ping()
        assert names["db"].command("ping")["ok"] == 1


def test_every_way_is_used() -> None:
    """No way is left of a command that is not in the documentation any more."""
    blocks = [block for _, block in BLOCKS if block.language == "sh"]
    assert WAYS.keys() - {command for block in blocks for command in block.commands} == set()


@pytest.mark.parametrize("block", SHELL_BLOCKS)
def test_the_commands_of_a_block_work(
    block: Block, terminal: Terminal, shared: SharedService
) -> None:
    """Each command is run, started and stopped, printed, or covered by another test."""
    terminal.replaced[LOCAL_URL] = shared.service.url
    assert [command for command in block.commands if command not in WAYS] == []
    for command in block.commands:
        WAYS[command](terminal, command)


@pytest.mark.slow
def test_make_lab_opens_the_notebooks(terminal: Terminal, tmp_path: Path) -> None:
    """JupyterLab answers on its port and has a copy of notebook 00, and ends with Ctrl-C.

    So does the private MongoDB that all notebooks share.
    """
    port, data = free_port(), tmp_path / "data"
    terminal.environment["ARGS"] = f"{tmp_path}/copy --no-browser --port {port}"
    terminal.environment["CHATLAB_DATA_DIR"] = str(data)
    del terminal.environment["CHATLAB_MONGO_URL"]
    terminal.environment["JUPYTER_TOKEN"] = "secret"
    process = terminal.start("make lab")
    try:
        notebook = "api/contents/00_start_here.ipynb?content=0&token=secret"
        wait_until_answered(f"http://127.0.0.1:{port}/{notebook}", process)
        mongod = psutil.Process(int((data / "run" / "mongo.pid").read_text()))
        assert mongod.is_running()
    finally:
        stop(process)
    block_until(lambda: not mongod.is_running(), "the end of MongoDB")
    assert (tmp_path / "copy" / "00_start_here.ipynb").exists()
