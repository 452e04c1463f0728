"""Commands that Redis refuses to this service: forbidden by its ACL, or unknown to its version.

Such an error reply is a mistake in the configuration and no outage. It is logged once.
"""

import logging
import re

from chatlab.connections.diagnosis import diagnose, diagnose_kind

log = logging.getLogger(__name__)

# The texts of Redis 6.2 to 8, with and without the error code, which redis-py removes. An option
# that a version does not have is a wrong number of arguments to it.
_REFUSAL = re.compile(
    r"NOPERM|permissions to (run|access)|unknown (sub)?command|wrong number of arguments"
    r"|The user executing the script can't"
)
_NAME = re.compile(r"['`]([\w|]+)['`]")  # of the command, which not every text contains


def is_refusal(reply: object) -> bool:
    """Return whether an error reply says that this command can never succeed."""
    return isinstance(reply, Exception) and bool(_REFUSAL.search(str(reply)))


_logged: set[str] = set()  # names of commands


def note_refusal(command: str, reply: Exception) -> None:
    """Log which command Redis refuses and what to do, once for each command.

    The reply may name another command than `command`, which was sent: one in a script.
    """
    if diagnose("Redis", reply) == diagnose_kind("sentinel"):
        return  # not the command is at fault; the circuit breaker logs it
    text = str(reply)
    found = _NAME.search(text)
    name = (found[1] if found else command).upper()
    if name in _logged:
        return
    _logged.add(name)
    rule = "&*" if "channel" in text else "~*" if " key" in text else f"+{name.lower()}"
    log.error(
        "Redis refuses the command %s (%s). chatlab works without it, but more slowly or without "
        "events between processes. Allow it (ACL SETUSER <user of the URL> %s), or use Redis 6.2 "
        "or newer; docs/operations.md lists all commands",
        name,
        text,
        rule,
    )
