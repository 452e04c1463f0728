"""A messaging service with a five-second cache, and notebooks that explain each stage.

`create_app` and `Settings` are loaded when they are first used, so that `import chatlab` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlab.settings import Settings as Settings
    from chatlab.web.app import create_app as create_app

__all__ = ["Settings", "__version__", "create_app"]
__version__ = "0.2.0"

_MODULES = {"Settings": "chatlab.settings", "create_app": "chatlab.web.app"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
