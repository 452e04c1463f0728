"""What users do with their own account: name, password, sessions, deletion."""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from http_clients import open_client
from live import PASSWORD, User
from shared_service import SharedService, UserMaker
from test_contract_http import TIME, assert_problem
from waiting import wait_until

from chatlab.sessions import hash_token
from chatlab.store.users import DELETED_NAME, MAX_SESSIONS

pytest_plugins = ["patient_plugin"]

NEW_PASSWORD = "another horse battery"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash  # quick to verify
LOGIN_LIMIT = 10  # the default, per minute
UserWithPassword = Callable[..., User]


@pytest.fixture(scope="module")
def shared(patient_shared: SharedService) -> SharedService:
    """A service whose answers do not depend on the speed of the machine."""
    return patient_shared


@pytest.fixture
def with_password(shared: SharedService, new_user: UserMaker) -> UserWithPassword:
    """Return a function that creates a user with this password."""

    def maker(password: str = PASSWORD) -> User:
        user = new_user()
        change = {"$set": {"passwordHash": HASH(password)}}
        shared.database["users"].update_one({"_id": user.id}, change)
        return user

    return maker


async def log_in(
    shared: SharedService, name: str, password: str, agent: str = ""
) -> httpx.Response:
    """Send a log-in."""
    async with open_client(shared.service.url, headers={"user-agent": agent}) as http:
        body = {"username": name, "password": password}
        return await http.post("/api/auth/login", json=body)


async def another_session(shared: SharedService, user: User, agent: str = "") -> User:
    """Log in once more, and return the user with the new token."""
    token = (await log_in(shared, user.id, PASSWORD, agent)).json()["token"]
    http = open_client(shared.service.url, headers={"authorization": f"Bearer {token}"})
    return User(shared.service, user.id, token, http)


async def status(user: User) -> int:
    """Return the status of a request with the token of this user."""
    return (await user.http.get("/api/auth/me")).status_code


async def delete_account(user: User, password: str = PASSWORD) -> httpx.Response:
    """Ask to delete the account."""
    return await user.http.request("DELETE", "/api/auth/me", json={"password": password})


async def change_password(user: User, current: str, new: str = NEW_PASSWORD) -> httpx.Response:
    """Ask to change the password."""
    return await user.http.post("/api/auth/password", json={"current": current, "new": new})


# --- the name -------------------------------------------------------------------------------------


async def test_the_display_name_can_be_changed(new_user: UserMaker) -> None:
    """Others see the new name. Invisible characters are removed, the id stays."""
    ann, bob = new_user(), new_user()
    before = (await ann.http.get("/api/auth/me")).json()
    answer = await ann.http.patch("/api/auth/me", json={"displayName": " \u202eAnn\u200b B. "})
    assert (answer.status_code, answer.json()) == (200, before | {"displayName": "Ann B."})
    assert (await bob.row_of(ann))["displayName"] == "Ann B."


@pytest.mark.parametrize("name", ["", "  ", "\u200b\u2060", "\u202e \u3164", "x" * 65, None, 7])
async def test_a_display_name_must_be_visible(new_user: UserMaker, name: object) -> None:
    """A name that no one can see is rejected like an empty one, and changes nothing."""
    ann = new_user()
    answer = await ann.http.patch("/api/auth/me", json={"displayName": name})
    assert_problem(answer, 422, "invalid")
    assert (await ann.http.get("/api/auth/me")).json()["displayName"] == ann.id.title()


# --- the password ---------------------------------------------------------------------------------


async def test_a_new_password_ends_all_other_sessions(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """The old password, the other token and its socket end. This session stays."""
    ann = with_password()
    other = await another_session(shared, ann)
    socket, own_socket = await other.connect(), await ann.connect()
    answer = await change_password(ann, PASSWORD)
    assert (answer.status_code, answer.content) == (204, b"")
    assert [await status(other), await status(ann)] == [401, 200]
    await wait_until(lambda: not socket.connected, "the socket of the other session to be closed")
    assert own_socket.connected
    assert (await ann.ask("typing", {"receiverId": ann.id, "typing": True})) == {"ok": True}
    assert (await log_in(shared, ann.id, PASSWORD)).status_code == 401
    assert (await log_in(shared, ann.id, NEW_PASSWORD)).status_code == 200
    await other.close()


async def test_a_stolen_token_is_not_enough_to_guess_the_password(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """Wrong passwords are counted for all sessions of the user, and not as failed log-ins."""
    ann = with_password()
    thief = await another_session(shared, ann)
    guesses = [await change_password(thief, "a wrong guess")]
    guesses += [await delete_account(thief, "a wrong guess") for _ in range(LOGIN_LIMIT - 1)]
    for guess in guesses:
        assert_problem(guess, 403, "forbidden")
    refused = await change_password(thief, PASSWORD)  # not even if it is right
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await delete_account(ann)).status_code == 429
    assert (await log_in(shared, ann.id, PASSWORD)).status_code == 200
    assert (await ann.http.delete("/api/auth/sessions")).status_code == 204
    assert await status(thief) == 401
    await thief.close()


async def test_the_right_password_does_not_count_as_a_guess(
    with_password: UserWithPassword,
) -> None:
    """Neither does a new password that is easy to guess: it is rejected before."""
    ann = with_password()
    for new in ("password123", "short", f"{ann.id}{ann.id}"):
        answer = await change_password(ann, "a wrong guess", new)
        assert_problem(answer, 422, "invalid")
        assert answer.json()["detail"].startswith("new: ")
    for _ in range(LOGIN_LIMIT - 1):
        assert (await change_password(ann, "a wrong guess")).status_code == 403
    assert (await change_password(ann, PASSWORD)).status_code == 204
    statuses = [(await change_password(ann, "a wrong guess")).status_code for _ in range(2)]
    assert statuses == [403, 429]


ACCENTS = "\N{LATIN SMALL LETTER E WITH ACUTE}tude \N{LATIN SMALL LIGATURE FI}ligran"  # each may be two characters
TWO_CHARACTERS = unicodedata.normalize("NFKD", ACCENTS)


async def test_a_password_may_be_typed_on_any_keyboard(shared: SharedService) -> None:
    """A character and its parts are the same for a password."""
    name = f"new-{hash_token(ACCENTS)[:6]}"
    body = {"username": name, "password": TWO_CHARACTERS}
    async with open_client(shared.service.url) as http:
        assert (await http.post("/api/auth/signup", json=body)).status_code == 201
    for password in (ACCENTS, TWO_CHARACTERS):
        assert (await log_in(shared, name, password)).status_code == 200
    assert (await log_in(shared, name, "Etude filigran")).status_code == 401


async def test_the_hash_of_an_older_version_goes_on_working(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """It is the hash of the password as it was typed. After one log-in every spelling works."""
    ann = with_password(ACCENTS)
    assert (await log_in(shared, ann.id, TWO_CHARACTERS)).status_code == 401
    assert (await log_in(shared, ann.id, ACCENTS)).status_code == 200
    assert (await log_in(shared, ann.id, TWO_CHARACTERS)).status_code == 200
    assert (await log_in(shared, ann.id, ACCENTS)).status_code == 200


# --- sessions -------------------------------------------------------------------------------------


async def test_the_list_of_sessions_says_where_they_were_started(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """The newest log-in is first, and the session of the request is marked."""
    ann = with_password()
    phone = await another_session(shared, ann, agent="A phone " + "x" * 500)
    answer = await phone.http.get("/api/auth/sessions")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    first, second = answer.json()
    assert list(first) == ["id", "createdAt", "lastUsedAt", "userAgent", "current"]
    assert first["userAgent"].startswith("A phone")
    assert len(first["userAgent"]) == 200
    assert [row["current"] for row in (first, second)] == [True, False]
    assert [row["id"] for row in (first, second)] == [
        hash_token(phone.token),
        hash_token(ann.token),
    ]
    assert all(TIME.fullmatch(first[name]) for name in ("createdAt", "lastUsedAt"))
    assert phone.token not in answer.text
    await phone.close()


async def test_a_session_of_an_older_version_is_listed(
    shared: SharedService, new_user: UserMaker
) -> None:
    """It has no record of its start and use, but it has an end. Its next use is recorded."""
    ann = new_user()
    fields = {"createdAt": "", "lastUsedAt": "", "userAgent": ""}
    shared.database["sessions"].update_one({"userId": ann.id}, {"$unset": fields})
    (row,) = (await ann.http.get("/api/auth/sessions")).json()
    assert row["createdAt"] < row["lastUsedAt"]
    assert row["userAgent"] == ""


async def test_a_session_can_be_ended_by_its_user_only(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """For anybody else it looks like a missing one."""
    ann, eve = with_password(), with_password()
    phone = await another_session(shared, ann)
    socket = await phone.connect()
    path = f"/api/auth/sessions/{hash_token(phone.token)}"
    others, missing = [
        await eve.http.delete(one) for one in (path, f"/api/auth/sessions/{'f' * 64}")
    ]
    assert_problem(others, 404, "not_found")
    assert others.content == missing.content
    assert await status(phone) == 200
    ended = await ann.http.delete(path)
    assert (ended.status_code, ended.content) == (204, b"")
    assert [await status(phone), await status(ann)] == [401, 200]
    await wait_until(lambda: not socket.connected, "the socket of the session to be closed")
    assert_problem(await ann.http.delete(path), 404, "not_found")
    assert_problem(await ann.http.delete("/api/auth/sessions/short"), 422, "invalid")
    await phone.close()


async def test_all_other_sessions_can_be_ended(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """Log out everywhere: only this session stays."""
    ann = with_password()
    others = [await another_session(shared, ann) for _ in range(3)]
    assert [await status(one) for one in others] == [200] * 3
    assert (await ann.http.delete("/api/auth/sessions")).status_code == 204
    assert [await status(one) for one in others] == [401] * 3
    assert [row["current"] for row in (await ann.http.get("/api/auth/sessions")).json()] == [True]
    await asyncio.gather(*(one.close() for one in others))


async def test_a_user_has_a_limited_number_of_sessions(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """The oldest one ends, so a program that logs in again and again fills neither list nor disk."""
    ann = with_password()
    sessions = shared.database["sessions"]
    mine = sessions.find_one({"userId": ann.id}) or {}
    sessions.insert_many(mine | {"_id": f"{number:064}"} for number in range(MAX_SESSIONS))
    sessions.update_one(
        {"_id": mine["_id"]}, {"$set": {"expiresAt": mine["expiresAt"].replace(year=2100)}}
    )
    other = await another_session(shared, ann)
    assert sessions.count_documents({"userId": ann.id}) == MAX_SESSIONS
    assert await status(other) == 200
    assert len((await ann.http.get("/api/auth/sessions")).json()) == MAX_SESSIONS
    await other.close()


# --- deletion -------------------------------------------------------------------------------------


async def test_a_deleted_account_ends_and_its_messages_stay(
    shared: SharedService, with_password: UserWithPassword, new_user: UserMaker
) -> None:
    """All sessions and sockets end, nothing of the user remains but the id, and the log-in fails."""
    ann, bob, eve = with_password(), new_user(), new_user()
    other = await another_session(shared, ann)
    sockets = [await ann.connect(), await other.connect()]
    message = await ann.send(bob, "hello")
    assert_problem(await delete_account(ann, "a wrong guess"), 403, "forbidden")
    answer = await delete_account(ann)
    assert (answer.status_code, answer.content) == (204, b"")
    assert [await status(ann), await status(other)] == [401, 401]
    await wait_until(lambda: not any(one.connected for one in sockets), "all sockets to be closed")
    gone = await log_in(shared, ann.id, PASSWORD)
    assert gone.content == (await log_in(shared, "nobody-at-all", PASSWORD)).content
    stored = shared.database["users"].find_one({"_id": ann.id}) or {}
    assert set(stored) == {"_id", "displayName", "createdAt", "deletedAt"}
    assert shared.database["sessions"].count_documents({"userId": ann.id}) == 0

    assert (await bob.read(ann)).json() == [message]
    rows = (await bob.http.get("/api/users")).json()
    assert [(row["displayName"], row["deleted"]) for row in rows if row["id"] == ann.id] == [
        (DELETED_NAME, True)
    ]
    for query in ({}, {"query": ann.id}, {"query": DELETED_NAME}):
        found = (await eve.http.get("/api/users", params=query)).json()
        assert ann.id not in [row["id"] for row in found]
    await other.close()


async def test_the_id_of_a_deleted_account_is_never_given_out_again(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """A stranger would inherit its conversations."""
    ann = with_password()
    assert (await delete_account(ann)).status_code == 204
    body = {"username": ann.id, "password": NEW_PASSWORD}
    async with open_client(shared.service.url) as http:
        assert_problem(await http.post("/api/auth/signup", json=body), 409, "conflict")


async def test_a_deletion_that_was_interrupted_can_be_repeated(
    shared: SharedService, with_password: UserWithPassword
) -> None:
    """If MongoDB fails after the account is gone and before its sessions are, a repeat ends them."""
    ann = with_password()
    change: list[dict[str, Any]] = [
        {"$set": {"deletedAt": "$createdAt"}},
        {"$unset": "passwordHash"},
    ]
    shared.database["users"].update_one({"_id": ann.id}, change)
    assert (await delete_account(ann)).status_code == 204
    assert await status(ann) == 401


# --- what it costs --------------------------------------------------------------------------------

OWN_REQUESTS: dict[str, Callable[[User, User], Awaitable[httpx.Response]]] = {
    "list sessions": lambda ann, _: ann.http.get("/api/auth/sessions"),
    "end a session": lambda ann, _: ann.http.delete(f"/api/auth/sessions/{'f' * 64}"),
    "rename": lambda ann, _: ann.http.patch("/api/auth/me", json={"displayName": "Ann"}),
    "block": lambda ann, bob: ann.http.put(f"/api/users/{bob.id}/block"),
    "unblock": lambda ann, bob: ann.http.delete(f"/api/users/{bob.id}/block"),
    "mute": lambda ann, bob: ann.http.put(f"/api/users/{bob.id}/mute"),
    "send": lambda ann, bob: bob.http.post(
        "/api/messages/send", json={"receiverId": ann.id, "text": "hello"}
    ),
    "change the password": lambda ann, _: change_password(ann, PASSWORD),
    "end all sessions": lambda ann, _: ann.http.delete("/api/auth/sessions"),
    "delete": lambda ann, _: delete_account(ann, NEW_PASSWORD),
}


async def test_documents_of_accounts_are_found_by_an_index(
    shared: SharedService, with_password: UserWithPassword, new_user: UserMaker
) -> None:
    """No request reads all users or all sessions."""
    ann, bob = with_password(), new_user()
    shared.database.command("profile", 2)
    try:
        for request in OWN_REQUESTS.values():
            assert (await request(ann, bob)).status_code in (200, 204, 404)
        assert (await log_in(shared, bob.id, PASSWORD)).status_code == 401
    finally:
        shared.database.command("profile", 0)
        plans = [
            (row["ns"].partition(".")[2], row["op"], row["planSummary"])
            for row in shared.database["system.profile"].find({"planSummary": {"$exists": True}})
        ]
        shared.database.drop_collection("system.profile")
    assert {name for name, _, _ in plans} >= {"users", "sessions"}
    assert [
        plan for plan in plans if plan[0] in ("users", "sessions") and "COLLSCAN" in plan[2]
    ] == []
