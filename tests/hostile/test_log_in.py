"""Attacks on log-in and sign-up: who is limited, and who can still log in meanwhile.

The service trusts its neighbours on this machine as proxies, so a test chooses the address of each
client with the header X-Forwarded-For.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from http_clients import open_client
from live import PASSWORD, Service, ServiceMaker
from patient import PatientService
from shared_service import SharedService, start_shared_service
from waiting import PATIENT_LIMIT_S as WINDOW_S
from waiting import wait_until

from chatlab.local.engines import Engines

NAME_LIMIT, ADDRESS_LIMIT, SIGN_UP_LIMIT = 2, 4, 3  # each attempt below them is hashed
NO_REDIS = "redis://127.0.0.1:1"
LIMITS = {
    "LOGIN_LIMIT": str(NAME_LIMIT),
    "LOGIN_ADDRESS_LIMIT": str(ADDRESS_LIMIT),
    "SIGNUP_LIMIT": str(SIGN_UP_LIMIT),
    "TRUSTED_PROXIES": "127.0.0.1",
}


@pytest.fixture(scope="module")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """A service with low limits, whose answers do not depend on the speed of the machine."""
    log = tmp_path_factory.mktemp("log-in") / "service.log"
    with start_shared_service(engines, log, PatientService, **LIMITS) as shared:
        yield shared


class Clients:
    """Clients of one service with any addresses. `new_address` returns one that no test has used."""

    def __init__(self, service: Service) -> None:
        self._http = open_client(service.url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @staticmethod
    def new_address() -> str:
        return f"2001:db8:{secrets.randbits(16):x}:{secrets.randbits(16):x}::1"

    async def sign_up(self, address: str, name: str | None = None, **more: Any) -> httpx.Response:
        account = {"username": name or f"u{secrets.token_hex(6)}", "password": PASSWORD, **more}
        return await self._post("signup", address, account)

    async def log_in(self, address: str, name: str, password: str, **more: Any) -> httpx.Response:
        account = {"username": name, "password": password, **more}
        return await self._post("login", address, account)

    async def guess(self, address: str, name: str) -> int:
        """Try a wrong password and return the status: 401 if it was checked, 429 if not."""
        return (await self.log_in(address, name, "a wrong guess")).status_code

    async def _post(self, path: str, address: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"x-forwarded-for": address}
        return await self._http.post(f"/api/auth/{path}", json=body, headers=headers)


@pytest.fixture
async def clients(shared: SharedService) -> AsyncIterator[Clients]:
    """Return the clients of the shared service."""
    async with Clients(shared.service) as clients:
        yield clients


async def signed_up(clients: Clients, address: str) -> tuple[str, str]:
    """Sign up a user from this address, and return the name and the id of the device."""
    device_id = secrets.token_urlsafe(16)
    answer = await clients.sign_up(address, deviceId=device_id)
    return answer.json()["user"]["id"], device_id


async def test_guesses_for_one_name_are_limited_over_all_addresses(clients: Clients) -> None:
    """Of 40 guesses at a time from 40 addresses, as many are checked as one address may try."""
    name, _ = await signed_up(clients, clients.new_address())
    guesses = [clients.guess(clients.new_address(), name) for _ in range(40)]
    assert Counter(await asyncio.gather(*guesses)) == {401: NAME_LIMIT, 429: 40 - NAME_LIMIT}


async def test_guesses_from_one_address_are_limited_over_all_names(clients: Clients) -> None:
    """Password spraying is limited, with the seconds until the next try. Others can log in."""
    attacker, home = clients.new_address(), clients.new_address()
    names = [f"u{secrets.token_hex(6)}" for _ in range(30)]
    guesses = Counter(await asyncio.gather(*(clients.guess(attacker, name) for name in names)))
    assert guesses == {401: ADDRESS_LIMIT, 429: len(names) - ADDRESS_LIMIT}

    refused = await clients.log_in(attacker, names[0], PASSWORD)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_S
    assert refused.json()["detail"] == (
        "Too many failed log-ins from this address. "
        f"Try again in {refused.headers['retry-after']} s."
    )
    name, _ = await signed_up(clients, home)
    assert (await clients.log_in(home, name, PASSWORD)).status_code == 200


async def test_a_user_whose_name_is_attacked_can_log_in(clients: Clients) -> None:
    """A known device can log in from anywhere, and any client from a known address.

    A device id of another user and an unknown one are of no use.
    """
    home, elsewhere = clients.new_address(), clients.new_address()
    name, device_id = await signed_up(clients, home)
    _, other_device_id = await signed_up(clients, clients.new_address())
    for _ in range(NAME_LIMIT):
        assert await clients.guess(clients.new_address(), name) == 401

    network = f"{home.removesuffix('1')}/64"  # a known address, but not as a device
    for of_no_use in (other_device_id, secrets.token_urlsafe(16), network, None):
        refused = await clients.log_in(elsewhere, name, PASSWORD, deviceId=of_no_use)
        assert refused.status_code == 429

    logged_in = await clients.log_in(elsewhere, name, PASSWORD, deviceId=device_id)
    assert logged_in.status_code == 200
    for address in (home, elsewhere):  # both are known now
        assert (await clients.log_in(address, name, PASSWORD)).status_code == 200


async def test_a_known_device_can_log_in_behind_the_address_of_an_attacker(
    clients: Clients,
) -> None:
    """A neighbour behind the same address can lock out unknown devices only."""
    address = clients.new_address()
    name, device_id = await signed_up(clients, address)
    guesses = [clients.guess(address, name) for _ in range(20)]
    assert Counter(await asyncio.gather(*guesses)) == {401: NAME_LIMIT, 429: 20 - NAME_LIMIT}
    assert (await clients.log_in(address, name, PASSWORD)).status_code == 429
    assert (await clients.log_in(address, name, PASSWORD, deviceId=device_id)).status_code == 200


async def test_guesses_from_a_known_device_are_limited(clients: Clients) -> None:
    """Someone who uses the device of a user cannot try any number of passwords."""
    home = clients.new_address()
    name, device_id = await signed_up(clients, home)
    wrong = [
        await clients.log_in(clients.new_address(), name, "a wrong guess", deviceId=device_id)
        for _ in range(NAME_LIMIT + 2)
    ]
    assert [answer.status_code for answer in wrong] == [401] * NAME_LIMIT + [429] * 2


async def test_only_failed_log_ins_count(clients: Clients) -> None:
    """More users than the limit of an address log in from it at a time. One failure does not help."""
    address = clients.new_address()
    users = [await signed_up(clients, clients.new_address()) for _ in range(2)]
    for _ in range(ADDRESS_LIMIT):
        answers = await asyncio.gather(
            *(clients.log_in(address, name, PASSWORD) for name, _ in users)
        )
        assert [answer.status_code for answer in answers] == [200, 200]
    for _ in range(ADDRESS_LIMIT):
        assert await clients.guess(address, f"u{secrets.token_hex(6)}") == 401
    assert (await clients.log_in(address, users[0][0], PASSWORD)).status_code == 429


async def test_a_limit_ends_with_its_key_which_names_nobody(
    shared: SharedService, clients: Clients
) -> None:
    """Every key lives for a window at most, and has hashes instead of names and addresses."""
    name, addresses = f"u{secrets.token_hex(6)}", [clients.new_address() for _ in range(NAME_LIMIT)]
    before = set(shared.keys_of("limit:name:*"))
    for address in addresses:
        assert await clients.guess(address, name) == 401
    assert await clients.guess(addresses[0], name) == 429

    keys = shared.keys_of("limit:*")
    assert all(0 < shared.keys.pttl(shared.prefix + key) <= WINDOW_S * 1000 for key in keys)
    assert not [key for key in keys for plain in (name, *addresses) if plain[:16] in key]
    (key,) = set(shared.keys_of("limit:name:*")) - before
    shared.keys.pexpire(shared.prefix + key, 1)
    assert await wait_until(
        lambda: clients.guess(addresses[0], name), "the limit to end", is_reached=lambda n: n == 401
    )


async def test_an_address_of_ipv6_is_a_whole_network(clients: Clients) -> None:
    """A client cannot evade a limit with the other addresses of its /64."""
    network = clients.new_address().removesuffix("1")
    guesses = [await clients.guess(f"{network}{n:x}", f"nobody-{n}") for n in range(8)]
    assert guesses == [401] * ADDRESS_LIMIT + [429] * (8 - ADDRESS_LIMIT)


async def test_sign_ups_are_limited_by_address(clients: Clients) -> None:
    """Requests that create no user do not count, and other addresses are not limited."""
    address = clients.new_address()
    taken, _ = await signed_up(clients, clients.new_address())
    for _ in range(SIGN_UP_LIMIT):
        assert (await clients.sign_up(address, taken)).status_code == 409
        assert (await clients.sign_up(address, "Not A Name")).status_code == 422
    answers = await asyncio.gather(*(clients.sign_up(address) for _ in range(SIGN_UP_LIMIT + 5)))
    assert Counter(answer.status_code for answer in answers) == {201: SIGN_UP_LIMIT, 429: 5}
    refused = await clients.sign_up(address)
    assert refused.json()["detail"].startswith("Too many sign-ups from this address. Try again in ")
    assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_S
    assert (await clients.sign_up(clients.new_address())).status_code == 201


async def test_the_address_is_the_last_one_that_is_no_trusted_proxy(clients: Clients) -> None:
    """What a client sends in the header stands before what the proxy has seen."""
    address = clients.new_address()
    forms = (
        address,
        f"{clients.new_address()}, {address}",
        f"198.51.100.1, {address}, 127.0.0.1",
        f"[{address}]:4711",
    )
    guesses = [await clients.guess(forms[n % len(forms)], f"nobody-{n}") for n in range(8)]
    assert guesses == [401] * ADDRESS_LIMIT + [429] * (8 - ADDRESS_LIMIT)


async def test_limits_hold_across_processes(
    shared: SharedService, clients: Clients, tmp_path: Path
) -> None:
    """Two processes of a service count together."""
    name, address = f"u{secrets.token_hex(6)}", clients.new_address()
    with shared.another_process(tmp_path / "log", KEY_PREFIX=shared.prefix) as other:
        async with Clients(other.service) as there:
            both = (clients, there)
            guesses = [await both[n % 2].guess(clients.new_address(), name) for n in range(5)]
            sign_ups = [await both[n % 2].sign_up(address) for n in range(SIGN_UP_LIMIT + 2)]
    assert guesses == [401] * NAME_LIMIT + [429] * 3
    assert [answer.status_code for answer in sign_ups] == [201] * SIGN_UP_LIMIT + [429] * 2


async def test_limits_hold_without_redis(start: ServiceMaker, database: Any) -> None:
    """A process counts by itself while Redis is away."""
    async with Clients(start(REDIS_URL=NO_REDIS, **LIMITS)) as clients:
        guesses = [await clients.guess(clients.new_address(), "nobody") for _ in range(5)]
    assert guesses == [401] * NAME_LIMIT + [429] * (5 - NAME_LIMIT)


async def test_a_full_queue_has_places_for_other_addresses(
    start: ServiceMaker, database: Any
) -> None:
    """A flood of sign-ups from one address is refused in part; one from another address is not."""
    async with Clients(start(TRUSTED_PROXIES="127.0.0.1", HASH_QUEUE="3")) as clients:
        flood = [asyncio.create_task(clients.sign_up("192.0.2.1")) for _ in range(20)]
        answers = [await clients.sign_up(f"198.51.100.{n}") for n in range(2)]
        flooded = await asyncio.gather(*flood)
    assert [answer.status_code for answer in answers] == [201] * 2
    refused = [answer for answer in flooded if answer.status_code != 201]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} <= {
        (429, "2")
    }
