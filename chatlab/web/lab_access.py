"""Who may use the page `/lab`: the two keys that open it without an account.

The presenter key is that of the teacher. With it, one can send messages and change settings. The
viewer key is for the devices of the class. It shows the same picture, and changes nothing. It is
computed from the presenter key, so it need not be stored, and it does not reveal the presenter key.
"""

import hashlib
import hmac
import ipaddress
import secrets
from typing import Annotated, Literal

from fastapi import Depends, Request

from chatlab.errors import Forbidden
from chatlab.settings import Settings
from chatlab.web.connection_limits import note_authenticated
from chatlab.web.dependencies import ClientAddress, SessionsDep, Token

Role = Literal["presenter", "viewer"]
KEY_BYTES = 12


class LabAccess:
    """The keys of this service. Without a setting, the presenter key is random."""

    def __init__(self, settings: Settings) -> None:
        self.presenter_key = settings.lab_key or secrets.token_urlsafe(KEY_BYTES)
        self.viewer_key = viewer_key_of(self.presenter_key)

    def role_of(self, key: object) -> Role | None:
        """Return what this key permits, or None for anything else."""
        given = key.encode() if isinstance(key, str) else b""
        if hmac.compare_digest(given, self.presenter_key.encode()):
            return "presenter"
        if hmac.compare_digest(given, self.viewer_key.encode()):
            return "viewer"
        return None


def viewer_key_of(presenter_key: str) -> str:
    """Return the key that opens the same page, but only to watch."""
    digest = hashlib.sha256(f"chatlab viewer {presenter_key}".encode())
    return digest.hexdigest()[: 2 * KEY_BYTES]


def is_loopback(address: str) -> bool:
    """Return whether this is a loopback address, in IPv4, IPv6, or IPv4 mapped to IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


async def lab_role(
    request: Request, token: Token, address: ClientAddress, sessions: SessionsDep
) -> Role:
    """Return the role of a key, or of the token of a user.

    A user on the machine of the service may do what the presenter may: programs there have no key.
    Raises Unauthenticated, RateLimited.
    """
    access: LabAccess = request.app.state.lab_access
    if role := access.role_of(token):
        note_authenticated(request.scope)
        return role
    await sessions.admit(token)
    note_authenticated(request.scope)
    return "presenter" if is_loopback(address) else "viewer"


RoleDep = Annotated[Role, Depends(lab_role)]


async def require_presenter(role: RoleDep) -> None:
    """Raise Forbidden for those who may only watch."""
    if role != "presenter":
        raise Forbidden(
            "Only the presenter may do this. `chatlab serve` prints the address for the presenter."
        )
