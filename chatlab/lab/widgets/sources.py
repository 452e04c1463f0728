"""The functions behind each box, with their source as it runs: nothing is a copy."""

import importlib
import inspect
import textwrap
from operator import attrgetter
from typing import Any

Source = dict[str, Any]

# The function that passes through all boxes.
WAYS = {
    "send": "service:Service.send",
    "read": "service:Service.read",
    "change": "service:Service._change",
}
BOXES = {
    "send": {
        "create": ["domain.message:create_draft"],
        "save": [
            "store.messages:MessageStore.save",
            "store.group_commit:GroupCommitter._commit",
            "store.messages:MessageStore.insert",
        ],
        "cache_message": ["cache.cache:Cache.put_message", "cache.window:put_message"],
        "cache_conversation": ["cache.cache:Cache.append_to_window", "cache.window:send"],
        "emit": ["realtime.broadcast:Broadcast.emit"],
        "request": [
            "web.fast_path:FastPath.send",
            "web.http:send",
            "web.sockets:SocketApi._answer",
        ],
        "respond": ["web.http:record_respond", "web.sockets:_acknowledged"],
    },
    "read": {
        "request": ["web.fast_path:FastPath.read", "web.http:read"],
        "read_cache": ["cache.cache:Cache.snapshot_window", "history:HistoryReader.read"],
        "read_store": ["history:HistoryReader._query", "store.messages:MessageStore.find_newest"],
        "respond": ["web.responses:history_response"],
    },
    "change": {
        "request": ["web.http:edit", "web.sockets:SocketApi._answer"],
        "save": ["service:Service._change", "store.messages:MessageStore.change"],
        "cache_message": [
            "cache.cache:Cache.put_changed_message",
            "cache.window:put_changed_message",
        ],
        "cache_conversation": ["cache.cache:Cache.change_in_window", "cache.window:change"],
        "emit": ["realtime.broadcast:Broadcast.emit"],
        "respond": ["web.http:record_respond", "web.sockets:_acknowledged"],
    },
}


def sources_of(plan: str) -> dict[str, list[Source]]:
    """Return the functions behind each box of this plan, most important first.

    `way` is the function that passes through all of them.
    """
    return {
        stage: [source(place) for place in places]
        for stage, places in [*BOXES[plan].items(), ("way", [WAYS[plan]])]
    }


def source(place: str) -> Source:
    """Return `{name, file, first, last, text}` of `module:name`. Line numbers start at 1."""
    module, name = place.split(":")
    function = attrgetter(name)(importlib.import_module(f"chatlab.{module}"))
    lines, first = inspect.getsourcelines(function)
    text = textwrap.dedent("".join(lines)).rstrip()
    return {
        "name": name,
        "file": f"chatlab/{module.replace('.', '/')}.py",
        "first": first,
        "last": first + len(lines) - 1,
        "text": text,
    }
