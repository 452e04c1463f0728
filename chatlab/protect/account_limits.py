"""Which limits a sign-up or a log-in counts for. `docs/security.md` explains each of them."""

from chatlab.protect.rate_limit import Attempt, Execute, SharedLimit, short_hash
from chatlab.settings import Settings

MAX_KNOWN = 16  # devices and addresses of a user that are remembered


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
        self.sign_ups = limit("signup", settings.signup_limit, "sign-ups from this address")

    def of_known_device(self, name: str, device_id: str) -> Attempt:
        """Return the limit of a device that has logged in to this account before.

        It is counted for itself, so neither guesses from elsewhere nor those of its neighbours
        behind the same address can lock it out.
        """
        return [(self._known, f"{name} {device_id}")]

    def of_address(self, name: str, origin: str, *, is_known: bool) -> Attempt:
        """Return the limits of any other client.

        An address that has logged in to this account before is not locked out by guesses from other
        addresses.
        """
        by_name = (self._known, f"{name} {origin}") if is_known else (self._name, name)
        return [(self._address, origin), by_name]


def place_hash(name: str, place: str) -> str:
    """Return the hash that is stored instead of a device id or an address of a user."""
    return short_hash(f"{name} {place}")


def latest_places(name: str, used: list[str], known_from: list[str]) -> list[str]:
    """Return the hashes of the known places, beginning with those that have just been used."""
    first = [place_hash(name, place) for place in used]
    return [*first, *(known for known in known_from if known not in first)][:MAX_KNOWN]
