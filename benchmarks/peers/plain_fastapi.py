"""A plain FastAPI server with the same diagram: one insert and one Redis pipeline for each send.

It has no group commit, no conversation window, no fences and no limits. uvicorn runs it, as it runs
chatlab. Settings: MONGO_URL, REDIS_URL, DATABASE, CACHE (on or off).
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import socketio
from bson import ObjectId
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from pymongo import AsyncMongoClient, WriteConcern
from redis.asyncio import Redis

TTL = 5  # seconds
LIMIT = 50  # messages of a conversation that are read and cached
CACHING = os.environ.get("CACHE", "on") == "on"

Json = dict[str, Any]
users_by_token: dict[str, str] = {}  # filled by the first request with a token


class SendBody(BaseModel):
    """The body of a send."""

    receiverId: str
    text: Annotated[str, Field(min_length=1, max_length=4000)]
    clientId: str | None = None


class Databases:
    """The clients of MongoDB and Redis. Create them when the event loop runs."""

    def __init__(self) -> None:
        self.mongo = AsyncMongoClient[Json](os.environ["MONGO_URL"])
        self.redis = Redis.from_url(os.environ["REDIS_URL"])
        database = self.mongo[os.environ["DATABASE"]]
        self.tokens = database["tokens"]
        self.messages = database["messages"].with_options(
            write_concern=WriteConcern(w="majority", j=True)
        )


@contextlib.asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    """Open and close the databases."""
    databases = api.state.databases = Databases()
    await databases.messages.create_index([("conversation", 1), ("createdAt", -1)])
    yield
    await databases.redis.aclose()
    await databases.mongo.close()


api = FastAPI(lifespan=lifespan)
sockets = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
app = socketio.ASGIApp(sockets, api)


async def user_of(token: str) -> str:
    """Return the id of the user with this token. Raises HTTPException 401."""
    if token not in users_by_token:
        found = await api.state.databases.tokens.find_one({"_id": token})
        if found is None:
            raise HTTPException(401)
        users_by_token[token] = found["userId"]
    return users_by_token[token]


async def current_user(authorization: Annotated[str, Header()]) -> str:
    """Return the user of this request."""
    return await user_of(authorization.removeprefix("Bearer "))


CurrentUser = Annotated[str, Depends(current_user)]


def key_of(one: str, other: str) -> str:
    """Return the Redis key of a conversation."""
    return "messages:{}:{}".format(*sorted((one, other)))


async def deliver(sender: str, body: SendBody) -> Json:
    """Follow the diagram: save, cache the message and the conversation, emit."""
    databases: Databases = api.state.databases
    key = key_of(sender, body.receiverId)
    document = body.model_dump() | {
        "conversation": key,
        "senderId": sender,
        "reactions": {},
        "createdAt": datetime.now(UTC),
    }
    await databases.messages.insert_one(document | {"_id": (_id := ObjectId())})
    message = document | {"_id": str(_id), "createdAt": document["createdAt"].isoformat()}
    if CACHING:
        text = json.dumps(message)
        pipeline = databases.redis.pipeline(transaction=False)
        pipeline.setex(f"message:{_id}", TTL, text)
        pipeline.rpush(key, text)
        pipeline.ltrim(key, -LIMIT, -1)
        pipeline.expire(key, TTL)
        await pipeline.execute()
    for user in {sender, body.receiverId}:
        await sockets.emit("newMessage", message, room=user)
    return message


@api.get("/healthz")
async def health() -> Json:
    """Respond when the server is ready."""
    return {"status": "ok"}


@api.post("/api/messages/send", response_model=None)
async def send(body: SendBody, user: CurrentUser) -> Json:
    """Send a message."""
    return await deliver(user, body)


@api.get("/api/messages/{other}", response_model=None)
async def read(other: str, user: CurrentUser) -> list[Json]:
    """Return the newest messages of a conversation, oldest first."""
    databases: Databases = api.state.databases
    key = key_of(user, other)
    if CACHING and (cached := await databases.redis.lrange(key, 0, -1)):
        return [json.loads(text) for text in cached]
    found = (
        await databases.messages.find({"conversation": key})
        .sort("createdAt", -1)
        .limit(LIMIT)
        .to_list()
    )
    messages = [
        {**one, "_id": str(one["_id"]), "createdAt": one["createdAt"].isoformat()}
        for one in reversed(found)
    ]
    if CACHING and messages:
        pipeline = databases.redis.pipeline(transaction=False)
        pipeline.delete(key)
        pipeline.rpush(key, *(json.dumps(one) for one in messages))
        pipeline.expire(key, TTL)
        await pipeline.execute()
    return messages


@sockets.on("connect")  # type: ignore[untyped-decorator]  # the library has no types
async def connect(sid: str, _environ: Json, auth: Json) -> None:
    """Let each user join a room of their own."""
    user = await user_of(auth["token"])
    await sockets.save_session(sid, {"user": user})
    await sockets.enter_room(sid, user)


@sockets.on("sendMessage")  # type: ignore[untyped-decorator]
async def send_message(sid: str, payload: Json) -> Json:
    """Send a message."""
    user = (await sockets.get_session(sid))["user"]
    return {"ok": True, "message": await deliver(user, SendBody(**payload))}
