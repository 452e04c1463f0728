"""What the long-running commands show in a terminal: the servers they use, and their log."""

from typing import Any

from chatlab.local.engines import Engine


def describe_engine(engine: Engine) -> str:
    """Return one line for the user, in rich markup."""
    where = "private, in the data folder" if engine.private else "as configured"
    warning = f"  [yellow]{engine.warning}[/yellow]" if engine.warning else ""
    return f"{engine.name} {engine.version or 'does not answer yet'} ({where}){warning}"


def log_config(level: str) -> dict[str, Any]:
    """Return the logging configuration: chatlab at this level and warnings of libraries, on
    standard error.
    """
    line = {
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
