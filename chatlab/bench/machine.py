"""The machine that figures come from, in the words that matter for them: no name, no path."""

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


def machine(**engines: str) -> dict[str, str]:
    """Cores, memory, kernel, Python, libraries; `engines` by name with their versions."""
    about = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
    }
    return about | engines | {"libraries": ", ".join(f"{name} {found}" for name in LIBRARIES if (found := _version(name)))}


def _processor() -> str:
    """Its name, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
