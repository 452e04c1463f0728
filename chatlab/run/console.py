"""What the long-running commands show in a terminal: the servers they use, and their log."""

import logging
from typing import Any

from rich.markup import escape

from chatlab.local.engines import Engine
from chatlab.server_urls import redact


class RedactingFormatter(logging.Formatter):
    """Hides the passwords of URLs, in messages and tracebacks, also those of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def describe_engine(engine: Engine) -> str:
    """Return one line for the user, in rich markup."""
    where = "private, in the data folder" if engine.private else "as configured"
    name = f"{engine.name} {engine.version}".strip()
    fix = f". Fix: {engine.fix}" if engine.fix else ""
    warning = f"  [yellow]{escape(engine.warning + fix)}[/yellow]" if engine.warning else ""
    return f"{name} ({where}){warning}"


def log_config(level: str) -> dict[str, Any]:
    """Return the logging configuration: chatlab at this level and warnings of libraries, on
    standard error.
    """
    line = {
        "class": "chatlab.run.console.RedactingFormatter",
        "format": "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s  %(message)s",
        "datefmt": "%H:%M:%S",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": line},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {"chatlab": {"level": level}, "uvicorn": {"level": "WARNING"}},
    }
