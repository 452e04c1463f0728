"""`chatlab record`: record the send-read-expire story, as one page that replays it.

The users are those of the page `/lab`. The recording has what that page would have learned: the
stage events, the messages that arrived at each user, and the values of the new keys.
"""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from chatlab.client import ChatClient
from chatlab.demo.runner import open_servers
from chatlab.demo.screen import show_status
from chatlab.errors import EngineError
from chatlab.settings import Settings
from chatlab.web.replay_page import replay_page

Json = dict[str, Any]
GRACE_S = 20  # for the sweeper to log an expiry, on a slow machine
PAUSE_S = 1.5
WRITES = ("cache_message", "cache_conversation")


def record(settings: Settings, file: Path, console: Console) -> None:
    """Record the story and write the page. Raises EngineError if a program is missing."""
    key = secrets.token_urlsafe()
    with (
        open_servers(settings, console, lab_key=key) as servers,
        show_status(console, "recording"),
    ):
        recording = asyncio.run(_record_story(servers.url, key))
    file.write_text(replay_page(recording), encoding="utf-8")
    console.print(f"Wrote {file}: open it in a browser.", markup=False, soft_wrap=True)


async def _record_story(url: str, key: str) -> Json:
    inputs: list[Json] = []
    cleaned = asyncio.Event()

    def happened(event: Json) -> None:
        inputs.append({"event": event})
        if event["stage"] == "cleaned":
            cleaned.set()

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        sessions = (await http.post("/api/lab/users")).json()
        settings = (await http.get("/api/lab/settings")).json()
        ada, ben = (ChatClient(url, session["user"], session["token"]) for session in sessions[:2])
        for user in (ada, ben):
            await user.connect()
        await ada.watch_flow(happened)
        try:
            await ada.send_by_socket(ben.id, "Hello!")
            await asyncio.sleep(PAUSE_S)
            inputs += await _values(http, [one["event"] for one in inputs])
            await _read_twice(ada, ben, cleaned, settings["cacheTtl"])
        finally:
            for user in (ada, ben):
                await user.close()
    inputs += [{"item": arrival} for user in (ada, ben) for arrival in _arrivals(user)]
    settings |= {"role": "viewer", "canTurn": False, "viewerKey": None}
    return {"version": 1, "settings": settings, "inputs": inputs}


async def _read_twice(
    ada: ChatClient, ben: ChatClient, cleaned: asyncio.Event, ttl_s: float
) -> None:
    """Read the message, wait until its key was cleaned, and read it again."""
    await asyncio.sleep(PAUSE_S)  # so that the page shows some of the life of the key
    await ben.read(ada.id)
    try:
        await asyncio.wait_for(cleaned.wait(), ttl_s + GRACE_S)
    except TimeoutError:
        raise EngineError(
            "The sweeper has not logged the expiry in time.", "chatlab demo"
        ) from None
    await asyncio.sleep(PAUSE_S)  # the sweep that cleaned the key ends, and the window too
    await ben.read(ada.id)
    await asyncio.sleep(PAUSE_S)  # for the last events


async def _values(http: httpx.AsyncClient, events: list[Json]) -> list[Json]:
    """Return the values that the keys of these events have now."""
    written = {event["key"]: event["at"] for event in events if event["stage"] in WRITES}
    values = (await http.get("/api/lab/values", params={"key": list(written)})).json()
    return [
        {"item": {"kind": "value", "at": written[key], "key": key, "value": value}}
        for key, value in values.items()
    ]


def _arrivals(user: ChatClient) -> list[Json]:
    return [
        {"kind": "arrival", "at": event.at, "screen": user.id, "message": event.payload}
        for event in user.received
        if event.event in ("newMessage", "messageUpdated")
    ]
