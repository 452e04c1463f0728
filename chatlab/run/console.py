"""What the long-running commands show in a terminal: the servers they use, and their log."""

import logging
import logging.config
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from chatlab.local.engines import Engine
from chatlab.server_urls import redact
from chatlab.settings import Settings

log = logging.getLogger(__name__)


class RedactingFormatter(logging.Formatter):
    """Hides the passwords of URLs, in messages and tracebacks, also those of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def greet(console: Console, settings: Settings, *lines: str) -> None:
    """Print lines of rich markup when a command starts, or log them if the log is JSON."""
    logging.config.dictConfig(log_config(settings))
    for line in lines:
        if settings.log_format == "json":
            log.info("%s", Text.from_markup(line).plain.strip())
        else:
            console.print(line, soft_wrap=True)


def describe_engine(engine: Engine) -> str:
    """Return one line for the user, in rich markup."""
    where = "private, in the data folder" if engine.private else "as configured"
    name = f"{engine.name} {engine.version}".strip()
    fix = f". Fix: {engine.fix}" if engine.fix else ""
    warning = f"  [yellow]{escape(engine.warning + fix)}[/yellow]" if engine.warning else ""
    return f"{name} ({where}){warning}"


def log_config(settings: Settings) -> dict[str, Any]:
    """Return the logging configuration: chatlab at its level and warnings of libraries, on
    standard error.
    """
    text = {
        "class": "chatlab.run.console.RedactingFormatter",
        "format": "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s  %(message)s",
        "datefmt": "%H:%M:%S",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": text, "json": {"class": "chatlab.run.json_log.JsonFormatter"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format}
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {"chatlab": {"level": settings.log_level}, "uvicorn": {"level": "WARNING"}},
    }
