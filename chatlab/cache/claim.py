"""The claim of this installation to its keys in Redis.

Two installations with the same Redis, database number and key prefix would read each other's
messages. So each process writes the id of its installation under a key that says who uses the
prefix, and does without Redis if it finds another id there. The key outlives every window.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from chatlab.connections.diagnosis import MisconfiguredError
from chatlab.connections.pipeline import AutoPipeline
from chatlab.connections.resp import Command

RENEWAL_INTERVAL_S = 5.0
SPARE_MS = 60_000  # how long the claim outlives the last key of this installation

# It needs only commands that the scripts of the windows need too.
CLAIM = """
local holder = redis.call('LINDEX', KEYS[1], 0)
if holder and holder ~= ARGV[1] then return holder end
if not holder then redis.call('RPUSH', KEYS[1], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return ARGV[1]
"""
DIGEST = hashlib.sha1(CLAIM.encode(), usedforsecurity=False).hexdigest()


class KeysInUseError(MisconfiguredError):
    """Another installation uses the keys with this prefix."""


class Claim:
    """Which installation may use the keys. `ttl_ms` returns the longest TTL of a key."""

    def __init__(self, pipe: AutoPipeline, key: str, ttl_ms: Callable[[], int]) -> None:
        self.installation: str | None = None  # unknown until MongoDB has been reached
        self.is_refused = False  # another installation uses the keys
        self.key, self._pipe, self._ttl_ms = key, pipe, ttl_ms
        pipe.register_script(DIGEST, CLAIM)

    def commands(self) -> list[Command]:
        """Return the command that takes or renews the claim, if the installation is known."""
        if self.installation is None:
            return []
        ttl_ms = self._ttl_ms() + SPARE_MS
        return [("EVALSHA", DIGEST, 1, self.key, self.installation, ttl_ms)]

    def check(self, replies: list[Any]) -> None:
        """Raise KeysInUseError if the reply to the command names another installation."""
        for holder in replies:
            if not isinstance(holder, bytes):
                continue
            self.is_refused = holder.decode() != self.installation
            if self.is_refused:
                raise KeysInUseError(
                    f"has the keys of another installation, {holder.decode()}, under the names "
                    f"that this one, {self.installation}, would use",
                    "set CHATLAB_KEY_PREFIX, or another number of the database in "
                    "CHATLAB_REDIS_URL; if the other one has ended, its claim, the key "
                    f"{self.key}, expires a minute after its messages",
                )

    async def renew(self) -> None:
        """Take or renew the claim. Without an answer, the probe does it later.

        Raises KeysInUseError.
        """
        self.check([await self._pipe.execute(*command) for command in self.commands()])
