"""Load the scripts of `window.lua` into Redis, and run them."""

import asyncio
import hashlib
from typing import Any

from redis.asyncio import Redis

from chatlab.cache.window import CommonArguments, ScriptCall, scripts_in
from chatlab.connections.driver_calls import DriverCalls
from chatlab.connections.pipeline import AutoPipeline, no_reply
from chatlab.connections.resp import Command


class Scripts:
    """The scripts of one process. `digests` is the SHA-1 of each script that Redis has loaded."""

    def __init__(self, pipe: AutoPipeline, source: str) -> None:
        self._pipe, self._sources = pipe, scripts_in(source)
        self.digests: dict[str, str] = {}

    async def load(self, redis: Redis, calls: DriverCalls) -> None:
        """Load all scripts. Raises ValueError if Redis returns another digest than ours."""
        for name, source in self._sources.items():
            digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            if await calls.run(redis.script_load(source)) not in (digest, digest.encode()):
                raise ValueError("Redis sent an unexpected reply")
            self._pipe.register_script(digest, source)
            self.digests[name] = digest

    def command(self, call: ScriptCall, common: CommonArguments) -> Command | None:
        """Return the command of this call, or None if Redis was never reached."""
        digest = self.digests.get(call.script)
        return call.command(digest, common) if digest else None

    def run(self, call: ScriptCall, common: CommonArguments) -> "asyncio.Future[Any]":
        """Return the reply to come. It is None if Redis does not answer."""
        command = self.command(call, common)
        return self._pipe.execute(*command) if command else no_reply()
