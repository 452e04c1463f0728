"""`chatlab lab`: JupyterLab on the notebooks, next to a running service."""

import importlib.util
import os
import sys
from pathlib import Path

from rich.console import Console

from chatlab.errors import EngineError
from chatlab.run.child import ChildService
from chatlab.settings import Settings

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
# Turns off JupyterLab's news and update checks; the user's own configuration may turn them on.
CONFIG = Path(__file__).parent.parent / "lab" / "jupyter"


def lab(settings: Settings, port: int, *, open_browser: bool, console: Console) -> None:
    """Start a service, then replace this process by JupyterLab, which opens notebook 00.

    The service is for the browser, and keeps the private servers running. Each notebook starts a
    service of its own, with its own database (see `chatlab.lab`). The service ends with JupyterLab.

    Raises EngineError if JupyterLab or the notebooks are missing.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise EngineError(
            "JupyterLab is not installed.", "pip install --require-hashes -r requirements.lock"
        )
    if not NOTEBOOKS.is_dir():
        raise EngineError(
            f"The notebooks are not in {NOTEBOOKS}: the installed package does not contain them.",
            "clone the repository, and run `chatlab lab` there",
        )
    child = ChildService(settings)
    where = "opens on notebook 00" if open_browser else "prints its address below"
    console.print(f"The service runs on [bold]{child.url}[/bold]; JupyterLab {where}.")
    console.print("Press Ctrl-C twice to stop both.")
    os.set_inheritable(child.lifeline_fd, True)  # inherited by JupyterLab: they end together
    command = _command(port, open_browser=open_browser)
    config_path = os.pathsep.join(
        filter(None, [str(CONFIG), os.environ.get("JUPYTER_CONFIG_PATH")])
    )
    environment = os.environ | {"PATH": _search_path(), "JUPYTER_CONFIG_PATH": config_path}
    os.execve(command[0], command, environment)  # noqa: S606 - this Python


def _command(port: int, *, open_browser: bool) -> list[str]:
    command = [sys.executable, "-m", "chatlab.run.jupyterlab", f"--port={port}"]
    command.append(f"--ServerApp.root_dir={NOTEBOOKS}")
    command.append("--LabApp.default_url=/lab/tree/00_start_here.ipynb")
    if not open_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return command


def _search_path() -> str:
    """Return PATH with the folder of this Python's own commands first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
