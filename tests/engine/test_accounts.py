"""Sign-up, log-in and sessions: what is stored, what is rejected, when a log-out takes effect."""

import asyncio
import math
import re
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from argon2 import PasswordHasher, extract_parameters
from http_clients import open_client
from live import PASSWORD, Service, ServiceMaker, SignUp
from shared_service import SharedService, UserMaker, create_user
from test_contract_http import TIME, assert_problem
from waiting import LIMIT_S, wait_until

from chatlab.accounts import Accounts
from chatlab.domain.ids import UserId
from chatlab.domain.requests import LogIn
from chatlab.domain.requests import SignUp as SignUpRequest
from chatlab.errors import Unauthenticated
from chatlab.receivers import Receivers
from chatlab.sessions import MAX_TOKENS_PER_QUERY, TOKEN_CACHE_S, Sessions, hash_token
from chatlab.settings import Settings, load_settings
from chatlab.store.users import Changes, FoundSessions, UserStore

pytest_plugins = ["patient_plugin"]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


async def post(service: Service, path: str, body: Any) -> httpx.Response:
    """Send a request without a token."""
    async with open_client(service.url) as http:
        return await http.post(f"/api/auth/{path}", json=body)


async def test_sign_up_log_in_me_log_out(shared: SharedService) -> None:
    """Sign-up and log-in return the user and a token. Log-out ends one session, not the other."""
    name = f"new-{time.monotonic_ns()}"
    signed_up = await post(
        shared.service,
        "signup",
        {"username": name, "password": PASSWORD, "displayName": " Ann B. "},
    )
    assert signed_up.status_code == 201
    assert list(signed_up.json()) == ["user", "token"]
    user = signed_up.json()["user"]
    assert list(user) == ["id", "displayName", "createdAt"]
    assert (user["id"], user["displayName"]) == (name, "Ann B.")
    assert TIME.fullmatch(user["createdAt"])
    logged_in = await post(shared.service, "login", {"username": name, "password": PASSWORD})
    assert (logged_in.status_code, logged_in.json()["user"]) == (200, user)
    tokens = [answer.json()["token"] for answer in (signed_up, logged_in)]
    assert len(set(tokens)) == 2
    assert all(len(token) >= 43 for token in tokens)
    async with open_client(shared.service.url) as http:
        first, second = (
            {"authorization": f"{scheme} {token}"}
            for scheme, token in zip(("Bearer", "bearer"), tokens, strict=True)
        )
        assert (await http.get("/api/auth/me", headers=second)).json() == user
        ended = await http.post("/api/auth/logout", headers=first)
        assert (ended.status_code, ended.content) == (204, b"")
        assert_problem(await http.get("/api/auth/me", headers=first), 401, "unauthenticated")
        assert (await http.get("/api/auth/me", headers=second)).json() == user


async def test_passwords_and_tokens_are_stored_as_hashes(shared: SharedService) -> None:
    """Neither MongoDB nor the log contains a password, a token or a device id in plain text."""
    name, password, device_id = f"new-{time.monotonic_ns()}", "hunter2 hunter2", "d" * 22
    signed_up = await post(
        shared.service,
        "signup",
        {"username": name, "password": password, "deviceId": device_id},
    )
    token = signed_up.json()["token"]
    user = shared.database["users"].find_one({"_id": name}) or {}
    assert user["displayName"] == name
    assert user["passwordHash"].startswith("$argon2id$")
    session = shared.database["sessions"].find_one({"userId": name}) or {}
    assert session["_id"] == hash_token(token)
    assert re.fullmatch(r"[0-9a-f]{64}", session["_id"])
    everywhere = str(shared.everything()) + shared.service.log.read_text()
    for secret in (token, password, device_id):
        assert secret not in everywhere


async def test_an_expired_session_is_rejected(shared: SharedService, new_user: UserMaker) -> None:
    """The expiry is checked, because MongoDB deletes expired documents only once a minute."""
    ann = new_user()
    past = shared.database["sessions"].find_one({"userId": ann.id}) or {}
    shared.database["sessions"].update_one(
        {"_id": past["_id"]}, {"$set": {"expiresAt": past["expiresAt"].replace(year=2020)}}
    )
    assert_problem(await ann.http.get("/api/auth/me"), 401, "unauthenticated")


async def test_only_one_of_concurrent_sign_ups_gets_a_name(shared: SharedService) -> None:
    """The others get 409, and their passwords do not work."""
    name = f"new-{time.monotonic_ns()}"
    answers = await asyncio.gather(
        *(
            post(shared.service, "signup", {"username": name, "password": f"{n} {PASSWORD}"})
            for n in range(4)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    for number, answer in enumerate(answers):
        if answer.status_code == 409:
            assert_problem(answer, 409, "conflict")
        logged_in = await post(
            shared.service, "login", {"username": name, "password": f"{number} {PASSWORD}"}
        )
        assert (logged_in.status_code == 200) == (answer.status_code == 201)


@pytest.mark.parametrize(
    "body",
    [
        {"username": "x" * 33, "password": PASSWORD},
        {"username": "Ann", "password": PASSWORD},
        {"username": "-ann", "password": PASSWORD},
        {"username": "ann:bob", "password": PASSWORD},
        {"username": "ann\n", "password": PASSWORD},
        {"username": "", "password": PASSWORD},
        {"username": "good-name", "password": "short"},
        {"username": "good-name", "password": "x" * 257},
        {"username": "good-name", "password": "Password123"},
        {"username": "good-name", "password": "good-name1"},
        {"username": "good-name", "password": "Ann Example", "displayName": "Ann Example"},
        {"username": "good-name", "password": PASSWORD, "displayName": " "},
        {"username": "good-name", "password": PASSWORD, "displayName": "x" * 65},
        {"username": "good-name"},
    ],
)
async def test_an_invalid_sign_up_is_rejected(shared: SharedService, body: dict[str, str]) -> None:
    """Names are handles, passwords have 8 to 256 characters and are hard to guess.

    Otherwise no user is created.
    """
    assert_problem(await post(shared.service, "signup", body), 422, "invalid")
    assert shared.database["users"].find_one({"_id": body["username"]}) is None


async def test_an_unknown_name_and_a_wrong_password_look_alike(shared: SharedService) -> None:
    """An unknown name and a wrong password get the same 401, byte for byte."""
    name = f"new-{time.monotonic_ns()}"
    await post(shared.service, "signup", {"username": name, "password": PASSWORD})
    wrong = [
        {"username": username, "password": "wrong password"}
        for username in (name, "nobody-at-all", "No Name!", name)
    ]
    answers = [await post(shared.service, "login", attempt) for attempt in wrong]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1


def user(name: str, password_hash: str) -> dict[str, Any]:
    """Return the document of a user who has never logged in."""
    return {
        "_id": name,
        "displayName": name,
        "passwordHash": password_hash,
        "createdAt": datetime.now(UTC),
    }


class StubStore:
    """A store in memory. `session_queries` counts the queries for sessions."""

    def __init__(self, users: dict[str, str], sessions: dict[str, str]) -> None:
        self._users = {name: user(name, password_hash) for name, password_hash in users.items()}
        self.valid, self.session_queries = sessions, 0

    async def find(self, name: str) -> dict[str, Any] | None:
        return self._users.get(name)

    async def add(self, added: dict[str, Any]) -> None:
        self._users[added["_id"]] = added

    async def set_known_from(self, name: str, hashes: list[str]) -> None:
        self._users[name]["knownFrom"] = hashes

    async def has_password(self, name: str, password_hash: str) -> bool:
        return bool(self._users[name]["passwordHash"] == password_hash)

    async def add_session(self, *_: object) -> None:
        """Sessions are not stored."""

    async def find_sessions(self, hashes: list[str]) -> FoundSessions:
        self.session_queries += 1
        users = {one: UserId(self.valid[one]) for one in hashes if one in self.valid}
        return FoundSessions(users, Changes(0, []))


NO_LIMITS = {"login_limit": 0, "login_address_limit": 0, "signup_limit": 0, "rate_limit": 0}


def accounts_on(store: StubStore, **settings: int) -> Accounts:
    """Return an `Accounts` without limits, unless others are given."""
    users, chosen = cast(UserStore, store), load_settings(**(settings or NO_LIMITS))
    receivers = Receivers(users)
    return Accounts(users, Sessions(users, receivers, chosen), receivers, chosen, no_redis)


def sessions_on(store: StubStore) -> Sessions:
    """Return a `Sessions` without limits."""
    users = cast(UserStore, store)
    return Sessions(users, Receivers(users), load_settings(**NO_LIMITS))


async def no_redis(*_: object) -> None:
    """Reply as the pipeline does while Redis is away."""


async def test_an_unknown_name_costs_as_much_as_a_wrong_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attempt verifies one argon2id hash, so its duration does not reveal known names."""
    verified: list[str] = []
    hashed = PasswordHasher().hash(PASSWORD)
    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, known: str, given: str) -> bool:
        verified.append(known)
        return verify(self, known, given)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    accounts = accounts_on(StubStore({"ann": hashed}, {}))
    for attempt, name in enumerate(("ann", "nobody-at-all", "nobody-at-all", "ann"), 1):
        with pytest.raises(Unauthenticated):
            await accounts.log_in(LogIn(username=name, password="wrong password"), "address")
        assert len(verified) == attempt
        assert verified[-1].startswith("$argon2id$")
        assert (verified[-1] == hashed) == (name == "ann")
        assert extract_parameters(verified[-1]) == extract_parameters(hashed)


async def test_the_default_limits_are_for_a_class_behind_one_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40 users sign up within a minute, mistype their password twice, and log in."""
    monkeypatch.setattr(PasswordHasher, "hash", lambda _, password: password)
    monkeypatch.setattr(PasswordHasher, "verify", lambda _, known, given: known == given)
    defaults = ("login_limit", "login_address_limit", "signup_limit", "hash_queue")
    settings = {name: Settings.model_fields[name].default for name in defaults}
    accounts, names = accounts_on(StubStore({}, {}), **settings), [f"pupil-{n}" for n in range(40)]
    address = "192.0.2.1"

    def log_ins(password: str) -> Any:
        asked = [LogIn(username=name, password=password) for name in names]
        return asyncio.gather(
            *(accounts.log_in(one, address) for one in asked), return_exceptions=True
        )

    asked = [SignUpRequest(username=name, password=PASSWORD) for name in names]
    await asyncio.gather(*(accounts.sign_up(one, address) for one in asked))
    for _ in range(2):
        assert {type(failure) for failure in await log_ins("wrong")} == {Unauthenticated}
    assert [answer["user"]["id"] for answer in await log_ins(PASSWORD)] == names


async def test_a_log_in_does_not_wait_for_sign_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    """While each slot of the sign-ups is busy and more of them wait, a log-in is answered."""
    hashed, may_end = PasswordHasher().hash(PASSWORD), threading.Event()
    accounts = accounts_on(StubStore({"ann": hashed}, {}))
    log_in = LogIn(username="ann", password="wrong password")
    with pytest.raises(Unauthenticated):
        await accounts.log_in(log_in, "192.0.2.1")  # makes the hash for unknown names
    monkeypatch.setattr(PasswordHasher, "hash", lambda *_: may_end.wait(LIMIT_S))
    sign_ups = [
        asyncio.create_task(
            accounts.sign_up(SignUpRequest(username=f"u{n}", password=PASSWORD), "")
        )
        for n in range(60)
    ]
    try:
        await wait_until(lambda: accounts._sign_ups._waiting, "sign-ups to wait")
        with pytest.raises(Unauthenticated):
            await asyncio.wait_for(accounts.log_in(log_in, "192.0.2.1"), LIMIT_S)
        assert not any(sign_up.done() for sign_up in sign_ups)
    finally:
        for sign_up in sign_ups:
            sign_up.cancel()
        may_end.set()
        await asyncio.gather(*sign_ups, return_exceptions=True)


async def test_a_log_in_does_not_outlive_a_change_of_the_password() -> None:
    """The password is changed, and all sessions end, just before this log-in starts its session."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

    class ChangingStore(StubStore):
        ended: str | None = None

        async def add_session(self, *fields: object) -> None:
            self._users["ann"]["passwordHash"] = quick.hash("the new one")
            self.started = fields[0]

        async def end_session(self, token_hash: str, _: str) -> bool:
            self.ended = token_hash
            return True

    store = ChangingStore({"ann": quick.hash(PASSWORD)}, {})
    with pytest.raises(Unauthenticated):
        await accounts_on(store).log_in(LogIn(username="ann", password=PASSWORD), "192.0.2.1")
    assert store.ended == store.started


async def test_a_valid_token_is_cached_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-out in another process takes effect within TOKEN_CACHE_S."""
    now_s = 1000.0
    monkeypatch.setattr("chatlab.sessions.time", SimpleNamespace(monotonic=lambda: now_s))
    store = StubStore({}, {hash_token("token"): "ann"})
    process = sessions_on(store)
    assert await process.authenticate("token") == "ann"
    store.valid.clear()  # a log-out in another process
    now_s += TOKEN_CACHE_S - 0.001
    assert await process.authenticate("token") == "ann"
    assert store.session_queries == 1
    now_s += 0.001
    with pytest.raises(Unauthenticated):
        await process.authenticate("token")
    assert store.session_queries == 2


async def test_many_tokens_share_a_query() -> None:
    """Clients that reconnect at the same time are authenticated together, and each gets its own user or error."""
    valid = {f"token {number}": f"user{number}" for number in range(300)}
    store = StubStore({}, {hash_token(token): user for token, user in valid.items()})
    process = sessions_on(store)
    tokens = [*valid, "unknown", "token 0"]
    found = await asyncio.gather(*map(process.authenticate, tokens), return_exceptions=True)
    assert found[:300] == list(valid.values())
    assert isinstance(found[300], Unauthenticated)
    assert found[301] == "user0"
    assert store.session_queries == math.ceil(301 / MAX_TOKENS_PER_QUERY)


async def test_known_tokens_do_not_wait_for_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is here already is authenticated again before the crowd that has just come."""
    now_s = 1000.0
    monkeypatch.setattr("chatlab.sessions.time", SimpleNamespace(monotonic=lambda: now_s))

    class SlowStore(StubStore):
        async def find_sessions(self, hashes: list[str]) -> FoundSessions:
            await asyncio.sleep(0)
            return await super().find_sessions(hashes)

    crowd = [f"token {number}" for number in range(10 * MAX_TOKENS_PER_QUERY)]
    process = sessions_on(SlowStore({}, {hash_token(token): "ann" for token in ["known", *crowd]}))
    admitted = list[str]()

    async def authenticate(token: str) -> None:
        await process.authenticate(token)
        admitted.append(token)

    await authenticate("known")
    now_s += TOKEN_CACHE_S
    await asyncio.gather(*map(authenticate, [*crowd, "known"]))
    assert admitted.index("known", 1) <= 2 * MAX_TOKENS_PER_QUERY


async def test_log_in_attempts_are_limited(
    start: ServiceMaker, sign_up: SignUp, database: Any
) -> None:
    """Too many failures block one name, with Retry-After. The right password resets the count."""
    service = start(LOGIN_LIMIT="3")
    ann, bob = await sign_up("ann", service), await sign_up("bob", service)

    async def log_in(name: str, password: str) -> int:
        return (await post(service, "login", {"username": name, "password": password})).status_code

    assert [await log_in("ann", "wrong") for _ in range(2)] == [401, 401]
    assert await log_in("ann", PASSWORD) == 200
    assert [await log_in("ann", "wrong") for _ in range(4)] == [401, 401, 401, 429]
    refused = await post(service, "login", {"username": "ann", "password": PASSWORD})
    assert_problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert f"Try again in {refused.headers['retry-after']} s." in refused.json()["detail"]
    assert await log_in("bob", PASSWORD) == 200
    assert [(await someone.http.get("/api/auth/me")).status_code for someone in (ann, bob)] == [
        200,
        200,
    ]


async def test_a_forged_client_address_does_not_evade_the_limit(
    start: ServiceMaker, database: Any
) -> None:
    """A client can write anything into X-Forwarded-For, so the service ignores it."""
    service = start(LOGIN_LIMIT="3")
    guess = {"username": "ann", "password": "wrong"}
    async with open_client(service.url) as http:
        answers = [
            await http.post(
                "/api/auth/login", json=guess, headers={"x-forwarded-for": f"203.0.113.{number}"}
            )
            for number in range(11)
        ]
    assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 8


async def test_a_log_out_takes_effect_in_all_processes(start: ServiceMaker, database: Any) -> None:
    """The token ends at once in one process, soon in the other. Sockets are closed in both."""
    here, there = start(), start()
    ann = create_user(database, here)
    ann_there = await ann.at(there)
    sockets = [await ann.connect(), await ann_there.connect()]
    assert (await ann_there.http.get("/api/auth/me")).status_code == 200  # now cached there
    assert (await ann.http.post("/api/auth/logout")).status_code == 204
    assert_problem(await ann.http.get("/api/auth/me"), 401, "unauthenticated")
    await wait_until(
        lambda: not sockets[0].connected, "the socket in the same process to be closed"
    )
    there_now = await wait_until(
        lambda: ann_there.http.get("/api/auth/me"),
        "the other process to reject the token",
        is_reached=lambda answer: answer.status_code != 200,
    )
    assert_problem(there_now, 401, "unauthenticated")
    await wait_until(
        lambda: not sockets[1].connected, "the socket in the other process to be closed"
    )
    await asyncio.gather(ann.close(), ann_there.close())
