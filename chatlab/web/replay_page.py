"""A recorded session of the page `/lab` as one file, which needs no server and no network."""

import json
from typing import Any

from chatlab.web.bundles import STATIC, bundle

FIRST_MODULE = "projector/replay.js"
STYLES = ("lab/lab.css", "projector/projector.css", "projector/scenes.css")
# The page that saves a recording replaces this by its own.
NO_RECORDING = '<script id="recording" type="application/json">null</script>'

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>chatlab: a recorded session</title>
<style>
{styles}</style>
</head>
<body>
<div id="app"><noscript>The recording needs JavaScript.</noscript></div>
{recording}
<script type="module">
{script}</script>
</body>
</html>
"""


def replay_page(recording: dict[str, Any] | None = None) -> str:
    """Return the page with this recording."""
    text = json.dumps(recording).replace("<", "\\u003c")  # nothing may end the element early
    return PAGE.format(
        styles="".join((STATIC / style).read_text(encoding="utf-8") for style in STYLES),
        recording=NO_RECORDING.replace("null", text),
        script=bundle(FIRST_MODULE),
    )
