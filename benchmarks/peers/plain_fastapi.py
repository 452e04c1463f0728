"""The peer in our own tongue: a plain FastAPI server, one insert and one pipeline a request. No groups, no window, no fences, no limits.

Settings: MONGO_URL, REDIS_URL, DATABASE, CACHE (on or off). uvicorn runs it, as it runs chatlab.
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
LIMIT = 50  # messages of a conversation that are read, and cached
CACHING = os.environ.get("CACHE", "on") == "on"

Json = dict[str, Any]
known: dict[str, str] = {}  # token -> user id


class Asked(BaseModel):
    """What a send asks."""

    receiverId: str
    text: Annotated[str, Field(min_length=1, max_length=4000)]
    clientId: str | None = None


class Parts:
    """MongoDB and Redis, once the event loop runs."""

    def __init__(self) -> None:
        self.mongo = AsyncMongoClient[Json](os.environ["MONGO_URL"])
        self.redis = Redis.from_url(os.environ["REDIS_URL"])
        database = self.mongo[os.environ["DATABASE"]]
        self.tokens = database["tokens"]
        self.messages = database["messages"].with_options(write_concern=WriteConcern(w="majority", j=True))


@contextlib.asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    """Open and close the parts."""
    parts = api.state.parts = Parts()
    await parts.messages.create_index([("conversation", 1), ("createdAt", -1)])
    yield
    await parts.redis.aclose()
    await parts.mongo.close()


api = FastAPI(lifespan=lifespan)
sockets = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
app = socketio.ASGIApp(sockets, api)


async def user_of(token: str) -> str:
    """Whose token it is. Raises HTTPException."""
    if token not in known:
        found = await api.state.parts.tokens.find_one({"_id": token})
        if found is None:
            raise HTTPException(401)
        known[token] = found["userId"]
    return known[token]


async def session(authorization: Annotated[str, Header()]) -> str:
    """The user of this request."""
    return await user_of(authorization.removeprefix("Bearer "))


User = Annotated[str, Depends(session)]


def key_of(one: str, other: str) -> str:
    """Where a conversation is cached."""
    return "messages:{}:{}".format(*sorted((one, other)))


async def deliver(sender: str, asked: Asked) -> Json:
    """The diagram: save, cache the message and the conversation, emit."""
    parts: Parts = api.state.parts
    key = key_of(sender, asked.receiverId)
    document = asked.model_dump() | {"conversation": key, "senderId": sender, "reactions": {}, "createdAt": datetime.now(UTC)}
    await parts.messages.insert_one(document | {"_id": (_id := ObjectId())})
    message = document | {"_id": str(_id), "createdAt": document["createdAt"].isoformat()}
    if CACHING:
        text = json.dumps(message)
        pipeline = parts.redis.pipeline(transaction=False)
        pipeline.setex(f"message:{_id}", TTL, text)
        pipeline.rpush(key, text)
        pipeline.ltrim(key, -LIMIT, -1)
        pipeline.expire(key, TTL)
        await pipeline.execute()
    for user in {sender, asked.receiverId}:
        await sockets.emit("newMessage", message, room=user)
    return message


@api.get("/healthz")
async def health() -> Json:
    """It is there."""
    return {"status": "ok"}


@api.post("/api/messages/send", response_model=None)
async def send(asked: Asked, user: User) -> Json:
    """Send a message."""
    return await deliver(user, asked)


@api.get("/api/messages/{other}", response_model=None)
async def read(other: str, user: User) -> list[Json]:
    """The newest messages of a conversation, oldest first."""
    parts: Parts = api.state.parts
    key = key_of(user, other)
    if CACHING and (cached := await parts.redis.lrange(key, 0, -1)):
        return [json.loads(text) for text in cached]
    found = await parts.messages.find({"conversation": key}).sort("createdAt", -1).limit(LIMIT).to_list()
    messages = [{**one, "_id": str(one["_id"]), "createdAt": one["createdAt"].isoformat()} for one in reversed(found)]
    if CACHING and messages:
        pipeline = parts.redis.pipeline(transaction=False)
        pipeline.delete(key)
        pipeline.rpush(key, *(json.dumps(one) for one in messages))
        pipeline.expire(key, TTL)
        await pipeline.execute()
    return messages


@sockets.on("connect")  # type: ignore[untyped-decorator]  # the library has no types
async def connect(sid: str, _environ: Json, auth: Json) -> None:
    """Each user has a room."""
    user = await user_of(auth["token"])
    await sockets.save_session(sid, {"user": user})
    await sockets.enter_room(sid, user)


@sockets.on("sendMessage")  # type: ignore[untyped-decorator]
async def send_message(sid: str, payload: Json) -> Json:
    """Send a message."""
    user = (await sockets.get_session(sid))["user"]
    return {"ok": True, "message": await deliver(user, Asked(**payload))}
