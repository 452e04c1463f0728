"""The routes of accounts, under `/api/auth`."""

from typing import Annotated

from fastapi import APIRouter, Depends

from chatlab.connections.mongo import Document
from chatlab.domain.requests import (
    ChangePassword,
    DeleteAccount,
    LogIn,
    Profile,
    SessionId,
    SignUp,
)
from chatlab.web.dependencies import (
    AccountsDep,
    ClientAddress,
    CurrentUser,
    SessionsDep,
    SocketSessionsDep,
    Token,
    UserAgent,
    body_of,
    describe_body,
    forbid_storing,
)
from chatlab.web.http import NO_CONTENT
from chatlab.web.problems import ERROR_RESPONSES
from chatlab.web.response_models import LogInSession, Session, User

routes = APIRouter(
    prefix="/api/auth", dependencies=[Depends(forbid_storing)], responses=ERROR_RESPONSES
)


@routes.post(
    "/signup", status_code=201, response_model=Session, openapi_extra=describe_body(SignUp)
)
async def sign_up(
    asked: Annotated[SignUp, body_of(SignUp)],
    address: ClientAddress,
    user_agent: UserAgent,
    accounts: AccountsDep,
) -> Document:
    """Create a user and a session."""
    return await accounts.sign_up(asked, address, user_agent)


@routes.post("/login", response_model=Session, openapi_extra=describe_body(LogIn))
async def log_in(
    asked: Annotated[LogIn, body_of(LogIn)],
    address: ClientAddress,
    user_agent: UserAgent,
    accounts: AccountsDep,
) -> Document:
    """Create a session for an existing user.

    With a `deviceId` that was part of an earlier sign-up or log-in to this account, failed log-ins
    from elsewhere do not delay this one.
    """
    return await accounts.log_in(asked, address, user_agent)


@routes.get("/me", response_model=User)
async def me(user: CurrentUser, accounts: AccountsDep) -> Document:
    """Return the user that the token belongs to."""
    return await accounts.profile(user)


@routes.patch("/me", response_model=User, openapi_extra=describe_body(Profile))
async def rename(
    user: CurrentUser, asked: Annotated[Profile, body_of(Profile)], accounts: AccountsDep
) -> Document:
    """Change the name that others see. The id never changes."""
    return await accounts.rename(user, asked.displayName)


@routes.delete("/me", openapi_extra=describe_body(DeleteAccount), **NO_CONTENT)
async def delete(
    user: CurrentUser,
    asked: Annotated[DeleteAccount, body_of(DeleteAccount)],
    address: ClientAddress,
    accounts: AccountsDep,
    sockets: SocketSessionsDep,
) -> None:
    """Delete the account and end all its sessions.

    Its messages stay in the conversations of the people that it wrote to. Its id cannot be used
    for a new account.
    """
    await sockets.end_hashes(user, await accounts.delete(user, asked.password, address))


@routes.post("/password", openapi_extra=describe_body(ChangePassword), **NO_CONTENT)
async def change_password(
    user: CurrentUser,
    token: Token,
    asked: Annotated[ChangePassword, body_of(ChangePassword)],
    address: ClientAddress,
    accounts: AccountsDep,
    sockets: SocketSessionsDep,
) -> None:
    """Change the password and end all other sessions. A wrong current password gets 403."""
    await sockets.end_hashes(user, await accounts.change_password(user, token, asked, address))


# --- sessions -----------------------------------------------------------------------------------


@routes.post("/logout", **NO_CONTENT)
async def log_out(
    user: CurrentUser, token: Token, sessions: SessionsDep, sockets: SocketSessionsDep
) -> None:
    """End the session of the token, and close its sockets."""
    await sockets.end_hashes(user, await sessions.log_out(user, token))


@routes.get("/sessions", response_model=list[LogInSession])
async def list_sessions(user: CurrentUser, token: Token, sessions: SessionsDep) -> list[Document]:
    """Return your sessions, the newest log-in first."""
    return await sessions.describe(user, token)


@routes.delete("/sessions/{sessionId}", **NO_CONTENT)
async def end_session(
    user: CurrentUser, sessionId: SessionId, sessions: SessionsDep, sockets: SocketSessionsDep
) -> None:
    """End one of your sessions, and close its sockets."""
    await sockets.end_hashes(user, await sessions.end(user, sessionId))


@routes.delete("/sessions", **NO_CONTENT)
async def end_other_sessions(
    user: CurrentUser, token: Token, sessions: SessionsDep, sockets: SocketSessionsDep
) -> None:
    """End all your sessions but this one, and close their sockets."""
    await sockets.end_hashes(user, await sessions.end_all(user, but=token))
