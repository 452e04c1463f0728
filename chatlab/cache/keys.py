"""The Redis keys of the cache, their TTLs, and the grace period that belongs to a TTL."""

from typing import NamedTuple


class Keys:
    """Build the name of every key. `prefix` is the setting `CHATLAB_KEY_PREFIX`.

    `tag` is the hash tag of one node of a cluster, for the keys that each node has.
    """

    def __init__(self, prefix: str = "", tag: str = "") -> None:
        self.prefix = prefix
        self.message_pattern = f"{prefix}message:*"
        self.window_pattern = f"{prefix}messages:*"
        self.limit_pattern = f"{prefix}limit:*"
        self.pattern = f"{prefix}message*:*"  # message entries and conversation windows
        self.probe = f"{prefix}probe{tag}"
        self.sweep_lock = f"{prefix}sweeping{tag}"
        self.claim = f"{prefix}installation{tag}"

    def message(self, message_id: str) -> str:
        """Return the key of a message cache entry."""
        return f"{self.prefix}message:{message_id}"

    def window(self, conversation: str) -> str:
        """Return the key of a conversation window."""
        return f"{self.prefix}messages:{conversation}"


class Ttls(NamedTuple):
    """The TTL of each kind of key, in milliseconds."""

    entry_ms: int  # of a message cache entry
    window_ms: int  # of a conversation window

    @classmethod
    def of(cls, ttl_ms: int) -> "Ttls":
        """Return both TTLs for a value of `CHATLAB_CACHE_TTL`. Everything that needs one asks here.

        Neither may be shorter for a longer `ttl_ms`.
        """
        return cls(entry_ms=ttl_ms, window_ms=ttl_ms)


def grace_period_ms(ttl_ms: int) -> int:
    """Return how long a fill may take, which is also the least TTL that a write leaves to a window.

    It is a fifth of the TTL: a fence must be able to outlive every pending fill.
    """
    return ttl_ms // 5
