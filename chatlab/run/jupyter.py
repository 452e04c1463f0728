"""`chatlab lab`: JupyterLab on a working copy of the notebooks."""

import importlib.util
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from chatlab.errors import EngineError
from chatlab.local.engines import open_engines
from chatlab.run.doctor import INSTALL_ALL
from chatlab.run.lab_key import lab_addresses, presenter_key
from chatlab.run.working_copy import in_repository, prepare, shipped
from chatlab.settings import Settings

# Turns off JupyterLab's news and update checks; the user's own configuration may turn them on.
CONFIG = Path(__file__).parent.parent / "lab" / "jupyter"


def lab(settings: Settings, folder: Path, port: int, *, open_browser: bool) -> None:
    """Start MongoDB, then replace this process by JupyterLab, which opens notebook 00.

    All notebooks share this MongoDB, which stops with JupyterLab. Each starts a service and a Redis
    of its own (see `chatlab.lab`). Raises EngineError if a program is missing.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise EngineError("JupyterLab is not installed.", INSTALL_ALL)
    engines = open_engines(settings, only="mongo")
    if engines.lifeline_fd is not None:
        os.set_inheritable(engines.lifeline_fd, True)
    command = _command(folder, port, open_browser=open_browser)
    config_path = os.pathsep.join(
        filter(None, [str(CONFIG), os.environ.get("JUPYTER_CONFIG_PATH")])
    )
    environment = os.environ | {"PATH": _search_path(), "JUPYTER_CONFIG_PATH": config_path}
    os.execve(command[0], command, environment)  # noqa: S606 - this Python


def working_copy(folder: Path, console: Console, *, fresh: bool) -> Path:
    """Create or update the working copy, and warn about files that are older than the package."""
    copy, outdated = prepare(folder, fresh=fresh)
    console.print(f"Your notebooks are in [bold]{escape(str(copy))}[/bold].", soft_wrap=True)
    if outdated:
        console.print(
            f"[yellow]Your changes in {escape(', '.join(outdated))} are kept. This version of"
            " chatlab has a newer text there.[/yellow] For a new copy next to this one:"
            " [bold]chatlab lab --fresh[/bold]",
            soft_wrap=True,
        )
    return copy


def print_lab_page(settings: Settings, console: Console) -> None:
    """Print the address of the live diagram, which a service of its own serves.

    The key is the same for `chatlab serve` and `chatlab lab` with one data folder.
    """
    url = f"http://{settings.host}:{settings.port}"
    address, _ = lab_addresses(url, presenter_key(settings))
    console.print(
        "For the live diagram, run [bold]CHATLAB_FLOW=1 chatlab serve[/bold] in another terminal,"
        f" then open [bold]{escape(address)}[/bold]",
        soft_wrap=True,
    )


def repository_notebooks() -> Path:
    """Return the notebooks of the repository. Raises EngineError if chatlab runs from a wheel."""
    if not in_repository():
        raise EngineError("chatlab does not run from a clone of its repository.", "chatlab lab")
    return shipped()


def _command(folder: Path, port: int, *, open_browser: bool) -> list[str]:
    command = [sys.executable, "-m", "chatlab.run.jupyterlab", f"--port={port}"]
    command.append(f"--ServerApp.root_dir={folder}")
    command.append("--LabApp.default_url=/lab/tree/00_start_here.ipynb")
    if not open_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return command


def _search_path() -> str:
    """Return PATH with the folder of this Python's own commands first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
