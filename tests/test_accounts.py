"""Sign-up, log-in, sessions: what is kept, what is refused, and how soon a log-out is felt."""

import asyncio
import re
import time
from typing import Any

import httpx
import pytest
from house import House, Newcomer, settle
from live import PASSWORD, PersonMaker, Service, ServiceMaker, eventually
from test_contract_http import TIME, is_problem

from chatlab.accounts import hash_of


async def post(service: Service, path: str, body: Any) -> httpx.Response:
    """A request of somebody who has no token yet."""
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as http:
        return await http.post(f"/api/auth/{path}", json=body)


async def test_sign_up_log_in_me_log_out(house: House) -> None:
    """Sign-up and log-in answer the user and a token each, `me` the same user, log-out nothing; then that token alone is dead."""
    name = f"new-{time.monotonic_ns()}"
    signed_up = await post(house.service, "signup", {"username": name, "password": PASSWORD, "displayName": " Ann B. "})
    assert signed_up.status_code == 201
    assert list(signed_up.json()) == ["user", "token"]
    user = signed_up.json()["user"]
    assert list(user) == ["id", "displayName", "createdAt"]
    assert (user["id"], user["displayName"]) == (name, "Ann B.")
    assert TIME.fullmatch(user["createdAt"])
    logged_in = await post(house.service, "login", {"username": name, "password": PASSWORD})
    assert (logged_in.status_code, logged_in.json()["user"]) == (200, user)
    tokens = [answer.json()["token"] for answer in (signed_up, logged_in)]
    assert len(set(tokens)) == 2
    assert all(len(token) >= 43 for token in tokens)
    async with httpx.AsyncClient(base_url=house.service.url) as http:
        first, second = ({"authorization": f"{scheme} {token}"} for scheme, token in zip(("Bearer", "bearer"), tokens, strict=True))
        assert (await http.get("/api/auth/me", headers=second)).json() == user
        ended = await http.post("/api/auth/logout", headers=first)
        assert (ended.status_code, ended.content) == (204, b"")
        is_problem(await http.get("/api/auth/me", headers=first), 401, "unauthenticated")
        assert (await http.get("/api/auth/me", headers=second)).json() == user


async def test_nothing_is_kept_that_opens_anything(house: House) -> None:
    """MongoDB holds the password as argon2id and the token as its SHA-256 with an end; neither is there, or in the log, as it is."""
    name, password = f"new-{time.monotonic_ns()}", "hunter2 hunter2"
    token = (await post(house.service, "signup", {"username": name, "password": password})).json()["token"]
    user = house.database["users"].find_one({"_id": name}) or {}
    assert user["displayName"] == name
    assert user["passwordHash"].startswith("$argon2id$")
    session = house.database["sessions"].find_one({"userId": name}) or {}
    assert session["_id"] == hash_of(token)
    assert re.fullmatch(r"[0-9a-f]{64}", session["_id"])
    everywhere = str(house.everything()) + house.service.log.read_text()
    assert token not in everywhere
    assert password not in everywhere


async def test_an_old_session_is_dead(house: House, newcomer: Newcomer) -> None:
    """A token past its end is refused, even while MongoDB has not yet taken it away."""
    ann = newcomer()
    past = house.database["sessions"].find_one({"userId": ann.id}) or {}
    house.database["sessions"].update_one({"_id": past["_id"]}, {"$set": {"expiresAt": past["expiresAt"].replace(year=2020)}})
    is_problem(await ann.http.get("/api/auth/me"), 401, "unauthenticated")


async def test_a_name_is_taken_once(house: House) -> None:
    """Of many who want one name at once, one gets it, and the others are told so; the password stays the first one's."""
    name = f"new-{time.monotonic_ns()}"
    answers = await asyncio.gather(*(post(house.service, "signup", {"username": name, "password": f"{n} {PASSWORD}"}) for n in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    for number, answer in enumerate(answers):
        if answer.status_code == 409:
            is_problem(answer, 409, "conflict")
        logged_in = await post(house.service, "login", {"username": name, "password": f"{number} {PASSWORD}"})
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
        {"username": "good-name", "password": PASSWORD, "displayName": " "},
        {"username": "good-name", "password": PASSWORD, "displayName": "x" * 65},
        {"username": "good-name"},
    ],
)
async def test_a_wrong_sign_up_is_refused(house: House, body: dict[str, str]) -> None:
    """Names are handles, passwords have 8 to 256 characters; nobody is made of anything else."""
    is_problem(await post(house.service, "signup", body), 422, "invalid")
    assert house.database["users"].find_one({"_id": body["username"]}) is None


async def test_an_unknown_name_and_a_wrong_password_look_alike(house: House) -> None:
    """Byte for byte, and both take as long as a hash does."""
    name = f"new-{time.monotonic_ns()}"
    await post(house.service, "signup", {"username": name, "password": PASSWORD})
    answers, times = [], []
    for username in (name, "nobody-at-all", "No Name!", name):
        began = time.perf_counter()
        answers.append(await post(house.service, "login", {"username": username, "password": "wrong password"}))
        times.append(time.perf_counter() - began)
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert min(times) > 0.01


async def test_log_in_attempts_are_limited(start: ServiceMaker, person: PersonMaker, database: Any) -> None:
    """Too many failures for a name are refused with Retry-After, other names are not; a right password begins anew."""
    service = start(LOGIN_LIMIT="3")
    ann, bob = await person("ann", service), await person("bob", service)

    async def log_in(name: str, password: str) -> int:
        return (await post(service, "login", {"username": name, "password": password})).status_code

    assert [await log_in("ann", "wrong") for _ in range(2)] == [401, 401]
    assert await log_in("ann", PASSWORD) == 200
    assert [await log_in("ann", "wrong") for _ in range(4)] == [401, 401, 401, 429]
    refused = await post(service, "login", {"username": "ann", "password": PASSWORD})
    is_problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert await log_in("bob", PASSWORD) == 200
    assert [(await someone.http.get("/api/auth/me")).status_code for someone in (ann, bob)] == [200, 200]


async def test_a_made_up_address_is_not_believed(start: ServiceMaker, database: Any) -> None:
    """X-Forwarded-For is what a client says, so attempts that name another address each are still of one."""
    service = start(LOGIN_LIMIT="3")
    guess = {"username": "ann", "password": "wrong"}
    async with httpx.AsyncClient(base_url=service.url) as http:
        told = [await http.post("/api/auth/login", json=guess, headers={"x-forwarded-for": f"203.0.113.{number}"}) for number in range(11)]
    assert [answer.status_code for answer in told] == [401] * 3 + [429] * 8


async def test_a_log_out_is_felt_everywhere(start: ServiceMaker, database: Any) -> None:
    """The token is dead at once in its process and within 5 s in another; the sockets it opened, here and there, are closed."""
    here, there = start(), start()
    ann = settle(database, here)
    ann_there = await ann.at(there)
    sockets = [await ann.connect(), await ann_there.connect()]
    assert (await ann_there.http.get("/api/auth/me")).status_code == 200  # known there now
    began = time.monotonic()
    await ann.http.post("/api/auth/logout")
    is_problem(await ann.http.get("/api/auth/me"), 401, "unauthenticated")
    await eventually(lambda: not sockets[0].connected, within=1)
    while (await ann_there.http.get("/api/auth/me")).status_code == 200:
        assert time.monotonic() - began < 5.5
        await asyncio.sleep(0.1)  # asked as a person would, again and again
    await eventually(lambda: not sockets[1].connected, within=began + 5.5 - time.monotonic())
    await asyncio.gather(ann.close(), ann_there.close())
