"""The doctor names what is missing and what mends it, and works where everything else does not."""

import http.server
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

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def settings_for(folder: Path, **more: object) -> Settings:
    """Private engines, and a port that is free."""
    return load_settings(**{"data_dir": folder, "mongo_url": None, "redis_url": None, "port": 0} | more)


def found(area: str, findings: list[Finding]) -> Finding:
    """The first finding about an area."""
    return next(finding for finding in findings if finding.area == area)


def names(requirements: list[str]) -> set[str]:
    """Of what is asked for, extras that bring a library of their own included."""
    wanted = [Requirement(text) for text in requirements]
    return {one.name for one in wanted} | {"aiohttp" if extra == "asyncio_client" else extra for one in wanted for extra in one.extras}


def test_all_is_well_here(tmp_path: Path) -> None:
    """On a machine where everything is installed nothing is missing, and both engines are named with their versions."""
    findings = diagnose(settings_for(tmp_path / "data"))
    assert [finding for finding in findings if finding.ok is False] == []
    for area, name in (("MongoDB", "mongo"), ("Redis", "redis")):
        assert found(area, findings).text.startswith(programs.find_program(name, settings_for(tmp_path)).version)  # type: ignore[arg-type]
    assert report(findings) == 0
    assert not (tmp_path / "data").exists()  # it only looks


def test_its_lists_are_those_of_the_project() -> None:
    """The doctor asks for what the project asks for, no more and no less."""
    assert set(doctor.SERVICE) == names(PROJECT["dependencies"])
    assert set(doctor.NOTEBOOKS) == names(PROJECT["optional-dependencies"]["notebooks"]) - {"python-socketio"}


@pytest.mark.parametrize("name", ["mongo", "redis"])
def test_it_names_the_wheel_the_project_would_choose(name: programs.Name) -> None:
    """The command that mends a missing engine installs what the project's markers choose on this machine."""
    chosen = [Requirement(text) for text in PROJECT["optional-dependencies"]["engines"]]
    here = {f"{one.name}{one.specifier}" for one in chosen if one.marker is None or one.marker.evaluate()}
    assert programs.wheel_for(name).strip("'") in here


def test_what_is_missing_is_mended(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing thing has its command right beneath it, and makes the exit code 1; a warning does not."""
    well, warning = Finding("a", True, "fine"), Finding("b", None, "old", "renew it")
    assert report([well, warning]) == 0
    assert report([well, Finding("c", False, "gone", "fetch it")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "warning", "->", "ok", "missing", "->"]
    assert lines[-1].strip() == "-> fetch it"


def test_brackets_are_no_markup() -> None:
    """In a terminal a text is printed as it is, square brackets included."""
    console = Console(record=True, width=100, quiet=False, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    report([Finding("c", False, "gone", "pip install 'it[extra]'")], console)
    assert "it[extra]" in console.export_text()
    console.file.close()


def test_a_bare_python_is_told_what_it_lacks(tmp_path: Path) -> None:
    """With no library at all it still runs, names each missing one, and exits with 1."""
    source = Path(doctor.__file__).parents[2]
    bare = [
        sys.executable,
        "-IS",
        "-c",
        f"import sys; sys.path.append({str(source)!r}); from chatlab.run.doctor import main; sys.exit(main())",
    ]
    said = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (said.returncode, said.stderr) == (1, "")
    assert all(library in said.stdout for library in (*doctor.SERVICE, *doctor.NOTEBOOKS))
    assert "pip install --require-hashes -r requirements.lock" in said.stdout


@pytest.mark.parametrize("command", [["chatlab.run.doctor"], ["chatlab", "doctor"]])
def test_a_wrong_setting_is_a_finding(tmp_path: Path, command: list[str]) -> None:
    """A setting that is wrong is named like anything else that is, beside all that can be seen without settings."""
    said = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env={"CHATLAB_PORT": "no", "HOME": str(tmp_path)},
        check=False,
    )
    assert (said.returncode, said.stderr) == (1, "")
    assert "CHATLAB_PORT=no" in said.stdout
    assert all(f" {area} " in said.stdout for area in ("Python", "JupyterLab", "service libraries"))


def test_a_missing_mongod_is_missing(tmp_path: Path) -> None:
    """A mongod that cannot be run is missing, and so is the data folder that cannot be written."""
    (tmp_path / "file").touch()
    findings = diagnose(settings_for(tmp_path / "file" / "data", mongod=tmp_path / "mongod"))
    assert found("MongoDB", findings).ok is False
    assert "CHATLAB_MONGOD" in found("MongoDB", findings).fix
    assert found("data folder", findings).ok is False


def test_named_engines_are_asked(tmp_path: Path) -> None:
    """With URLs in the settings the engines there are asked, and the data folder does not matter."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        findings = diagnose(settings_for(tmp_path, mongo_url=f"mongodb://{place}", redis_url=f"redis://{place}"))
    assert (found("MongoDB", findings).ok, found("Redis", findings).ok) == (False, False)
    assert "data folder" not in {finding.area for finding in findings}


class Other(http.server.BaseHTTPRequestHandler):
    """Whatever answers on a port: it says what its API is called."""

    title = "something else"

    def do_GET(self) -> None:
        """Answer everything alike."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"info": {"title": self.title}}).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("title", "ok"), [("chatlab", True), ("something else", None)])
def test_a_taken_port(tmp_path: Path, title: str, ok: bool | None) -> None:
    """A port where a chatlab answers is well; one that somebody else has is a warning with another port to take."""
    with http.server.HTTPServer(("127.0.0.1", 0), type("Named", (Other,), {"title": title})) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        finding = found("port", diagnose(settings_for(tmp_path, port=server.server_port)))
        server.shutdown()
    assert finding.ok is ok
    assert ("--port" in finding.fix) is (ok is None)
