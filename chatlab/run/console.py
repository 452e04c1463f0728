"""What the long-running commands show in a terminal: the servers they use, and their log."""

import logging.config
from typing import Any

from rich.console import Console
from rich.text import Text

from chatlab.local.engines import Engine
from chatlab.settings import Settings

log = logging.getLogger(__name__)


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
    warning = f"  [yellow]{engine.warning}[/yellow]" if engine.warning else ""
    return f"{engine.name} {engine.version or 'does not answer yet'} ({where}){warning}"


def log_config(settings: Settings) -> dict[str, Any]:
    """Return the logging configuration: chatlab at its level and warnings of libraries, on
    standard error.
    """
    text = {
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
