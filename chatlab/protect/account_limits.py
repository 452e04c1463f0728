"""Which limits a sign-up or a log-in counts for. `docs/security.md` explains each of them."""

from typing import NamedTuple, Self

from chatlab.protect.rate_limit import Attempt, Execute, SharedLimit, address_group, short_hash
from chatlab.settings import Settings

MAX_KNOWN = 16  # devices and addresses of a user that are remembered


class Client(NamedTuple):
    """The address of a client as the limits count it, and its device if it has named one."""

    address: str
    device: str

    @classmethod
    def of(cls, address: str, device_id: str | None) -> Self:
        """Return the client. A device id must not pass as an address."""
        return cls(f"address {address_group(address)}", f"device {device_id}" if device_id else "")


class AccountLimits:
    """The limits by name and by address. They hold across processes."""

    def __init__(self, settings: Settings, execute: Execute) -> None:
        def limit(
            kind: str, per_minute: int, what: str, *, is_forgiving: bool = False
        ) -> SharedLimit:
            key, refusal = f"{settings.key_prefix}limit:{kind}", f"Too many {what}."
            return SharedLimit(key, per_minute, refusal, execute, is_forgiving=is_forgiving)

        by_name, by_address = settings.login_limit, settings.login_address_limit
        self._name = limit("name", by_name, "failed log-ins with this name")
        self._known = limit("known", by_name, "failed log-ins with this name", is_forgiving=True)
        self._address = limit("address", by_address, "failed log-ins from this address")
        self._confirmation = limit("password", by_name, "wrong passwords")
        self.sign_ups = limit("signup", settings.signup_limit, "sign-ups from this address")

    def of_log_in(self, name: str, client: Client, known_from: list[str]) -> tuple[Attempt, str]:
        """Return the limits of a log-in, and the key of its turn in the queue.

        A device that has logged in to this account before is counted for itself, and does not wait
        for other log-ins from its address: neither guesses from elsewhere nor those of its
        neighbours behind the same address can lock it out. An address that has logged in to this
        account before is not locked out by guesses from other addresses.
        """
        if client.device and place_hash(name, client.device) in known_from:
            return [(self._known, f"{name} {client.device}")], f"{client.address} known"
        is_known = place_hash(name, client.address) in known_from
        by_name = (self._known, f"{name} {client.address}") if is_known else (self._name, name)
        return [(self._address, client.address), by_name], client.address

    def of_confirmation(self, user_id: str, client: Client) -> tuple[Attempt, str]:
        """Return the limits of a password that a user with a token gives, and the key of its turn.

        It counts apart from log-ins: a thief of a token can neither guess the password nor
        keep its user from logging in.
        """
        return [(self._confirmation, user_id)], f"{client.address} known"


def place_hash(name: str, place: str) -> str:
    """Return the hash that is stored instead of a device or an address of a user."""
    return short_hash(f"{name} {place}")


def latest_places(name: str, client: Client, known_from: list[str]) -> list[str]:
    """Return the hashes of the known places, beginning with those of this client."""
    here = [place_hash(name, place) for place in (client.device, client.address) if place]
    return [*here, *(known for known in known_from if known not in here)][:MAX_KNOWN]
