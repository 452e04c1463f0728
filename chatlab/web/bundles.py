"""The modules of a page as one script.

On a slow network, a request for each module would take long. The files stay plain modules, and a
page works with them too. In a bundle, each module is a function that returns its exports, and an
import looks them up. Comments are left out.
"""

import functools
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

STATIC = Path(__file__).parent / "static"
VENDOR = "vendor/"  # these files are imported as they are
# The first module of each bundle, and the bundle that the page has loaded before.
BUNDLES = {
    "chat/chat.js": None,
    "chat/workspace.js": "chat/chat.js",
    "projector/projector.js": None,
}

_COMMENT = re.compile(r"^[ \t]*(?://[^\n]*|/\*(?:(?!\*/).)*\*/[ \t]*)\n", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(
    r"^import (?:\{(?P<names>[^}]*)\}|\* as (?P<all>\w+)|(?P<default>\w+))"
    r' from "(?P<path>[^"]+)";\n',
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^export (?P<default>default )?(?=(?:async )?(?:function|class|const) (?P<name>\w+))",
    re.MULTILINE,
)


@functools.cache
def bundle(first: str, loaded: str | None = None) -> str:
    """Return a script of this module and all that it imports, but not those that are loaded."""
    folder = posixpath.dirname(first)
    modules = list(_modules(first, set(_modules(loaded, set())) if loaded else set()))
    files = [f"./{posixpath.relpath(path, folder)}" for path in modules]
    if loaded:
        start = f'import {{ modules }} from "./{posixpath.relpath(loaded, folder)}";\n'
    else:
        start = "export const modules = {};\n"
    imports = "".join(
        f'import * as vendor{number} from "{file}";\nmodules["{path}"] = vendor{number};\n'
        for number, (path, file) in enumerate(zip(modules, files, strict=True))
        if path.startswith(VENDOR)
    )
    parts = (_as_function(path) for path in modules if not path.startswith(VENDOR))
    names = ", ".join(name for name in _exports(first) if name != "default")
    end = f'export const {{ {names} }} = modules["{first}"];\n' if names else ""
    return start + imports + "".join(parts) + end


def _modules(path: str, seen: set[str]) -> Iterator[str]:
    """Yield the modules that this one imports, and then the module itself."""
    if path in seen:
        return
    seen.add(path)
    if not path.startswith(VENDOR):
        for found in _IMPORT.finditer(_code(path)):
            yield from _modules(_target(path, found["path"]), seen)
    yield path


@functools.cache
def _code(path: str) -> str:
    return _COMMENT.sub("", (STATIC / path).read_text(encoding="utf-8"))


def _target(path: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def _exports(path: str) -> dict[str, str]:
    """Return the names that a module exports, and what they are called in it."""
    return {
        "default" if found["default"] else found["name"]: found["name"]
        for found in _EXPORT.finditer(_code(path))
    }


def _as_function(path: str) -> str:
    def look_up(found: re.Match[str]) -> str:
        if found["names"]:
            names = "{" + found["names"].replace(" as ", ": ") + "}"
        else:
            names = found["all"] or f"{{ default: {found['default']} }}"
        return f'const {names} = modules["{_target(path, found["path"])}"];\n'

    code = _EXPORT.sub("", _IMPORT.sub(look_up, _code(path)))
    exports = ", ".join(f"{name}: {own}" for name, own in _exports(path).items())
    return f'modules["{path}"] = (() => {{\n{code}return {{ {exports} }};\n}})();\n'
