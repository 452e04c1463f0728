"""Describe the machine that was measured, without its name or any path."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

LIBRARIES = (
    "chatlab",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "pymongo",
    "redis",
    "hiredis",
    "python-socketio",
    "msgspec",
)


def describe_machine(**engines: str) -> dict[str, str]:
    """Return the hardware, the system and all versions; `engines` maps names to versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = {
        "processor": _processor(),
        "cores": str(cores),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
    }
    libraries = [f"{name} {found}" for name in LIBRARIES if (found := _version(name))]
    return hardware | engines | {"libraries": ", ".join(libraries)}


def _processor() -> str:
    """Return the model name that Linux reports, or the architecture on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
