"""Run the scripts of `window.lua`.

The pipeline loads them whenever it connects, and sends the source of one that Redis has forgotten.
"""

import hashlib

from chatlab.cache.window import CommonArguments, ScriptCall, scripts_in
from chatlab.connections.pipeline import AutoPipeline
from chatlab.connections.resp import Command


class Scripts:
    """The scripts of one server. `digests` is the SHA-1 of each, by which Redis knows it."""

    def __init__(self, pipe: AutoPipeline, source: str) -> None:
        self.digests, self.sources = dict[str, str](), scripts_in(source)
        for name, script in self.sources.items():
            self.digests[name] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
            pipe.register_script(self.digests[name], script)

    def command(self, call: ScriptCall, common: CommonArguments) -> Command:
        """Return the command of this call."""
        return call.command(self.digests[call.script], common)
