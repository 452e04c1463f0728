"""A recorded session of the page `/lab` as one file, which needs no server and no network.

The file has the modules of the page. Each one is a `data:` URL in an import map, and its imports of
other modules have the names of that map.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

STATIC = Path(__file__).parent / "static"
FIRST_MODULE = "projector/replay.js"
STYLES = ("lab/lab.css", "projector/projector.css", "projector/scenes.css")
# The page that saves a recording replaces this by its own.
NO_RECORDING = '<script id="recording" type="application/json">null</script>'
PLAIN = " !$&'()*+,-./:;=>?@[]^_`{|}~"  # what a data: URL may contain as it is
_IMPORT = re.compile(r'^((?:import|export|\}) ?(?:[^";]*? from )?)"(\.{1,2}/[^"]+)"', re.MULTILINE)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>chatlab: a recorded session</title>
<style>
{styles}</style>
<script type="importmap">
{imports}
</script>
</head>
<body>
<div id="app"><noscript>The recording needs JavaScript.</noscript></div>
{recording}
<script type="module">import "{first}";</script>
</body>
</html>
"""


def replay_page(recording: dict[str, Any] | None = None) -> str:
    """Return the page with this recording."""
    urls = {_name(path): _data_url(text) for path, text in _modules(FIRST_MODULE, set())}
    text = json.dumps(recording).replace("<", "\\u003c")  # nothing may end the element early
    return PAGE.format(
        styles="".join((STATIC / style).read_text(encoding="utf-8") for style in STYLES),
        imports=json.dumps({"imports": urls}, indent=0),
        recording=NO_RECORDING.replace("null", text),
        first=_name(FIRST_MODULE),
    )


def _modules(path: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield a module and those that it imports, with the names of the import map."""
    if path in seen:
        return
    seen.add(path)
    text = (STATIC / path).read_text(encoding="utf-8")

    def target(relative: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))

    for _, relative in _IMPORT.findall(text):
        yield from _modules(target(relative), seen)
    yield path, _IMPORT.sub(lambda found: f'{found[1]}"{_name(target(found[2]))}"', text)


def _name(path: str) -> str:
    return f"chatlab/{path}"


def _data_url(text: str) -> str:
    return f"data:text/javascript,{quote(text, safe=PLAIN)}"
