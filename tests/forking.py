"""Start every `chatlab serve` that this process starts as a copy of a process that has loaded its libraries.

Its limits are those that a slow machine does not exceed: with its usual limits, the service stops waiting for Redis after 0.2 s, and then does
not cache the message. That is right, but a test of the demo or of a notebook must not depend on it. Only the kernels of notebooks start services
with the usual limits, unless a test sets the variable PATIENT.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import prefork
from waiting import PATIENT_LIMIT_S

COMMAND = [sys.executable, "-m", "chatlab", "serve", "--attached"]
PATIENT = "PATIENT_NOTEBOOK"  # in the environment of a kernel: its limits do not matter
PROGRAM = str(Path(__file__).with_name("patient_chatlab.py"))


class ForkingPopen(subprocess.Popen[Any]):
    """A child process. A `chatlab serve --attached` is a copy."""

    def __new__(cls, args: Any, *_: Any, **options: Any) -> Any:
        """Return a copy instead of this class if it is such a command."""
        if args != COMMAND:
            return super().__new__(cls)
        program, environment = cls.program(args[1:], options["env"])
        return prefork.start_with_pipes(
            program, environment, options["stderr"], options["pass_fds"]
        )

    @staticmethod
    def program(given: list[str], environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return what the copy runs."""
        return given, environment


class PatientPopen(ForkingPopen):
    """The copy has generous limits."""

    @staticmethod
    def program(given: list[str], environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return what the copy runs."""
        return [PROGRAM, *given[2:]], {**environment, "CHATLAB_REDIS_TIMEOUT": str(PATIENT_LIMIT_S)}


def install(popen: type[ForkingPopen] = PatientPopen) -> None:
    """Replace `subprocess.Popen` until this process ends."""
    setattr(subprocess, "Popen", popen)  # noqa: B010 - a class cannot be assigned to in typed code


def install_in_kernel() -> None:
    """Replace `subprocess.Popen` in the kernel of a notebook.

    With the variable PATIENT, the services have generous limits, and their clients too.
    """
    if PATIENT not in os.environ:
        return install(ForkingPopen)
    import chatlab.client  # noqa: PLC0415 - a test process does not need it here

    chatlab.client.REPLY_TIMEOUT_S = int(PATIENT_LIMIT_S)
    return install()
