"""Which function does a box, and its source as it runs: nothing here is a copy."""

import importlib
import inspect
import textwrap
from operator import attrgetter
from typing import Any

Source = dict[str, Any]

WAYS = {"send": "service:Service.send", "read": "service:Service.read", "change": "service:Service._change"}  # through all boxes
BOXES = {
    "send": {
        "create": ["message:create"],
        "save": ["store:Store.save", "store:Saver._commit", "store:Store.insert"],
        "cache_message": ["cache:Cache.keep", "cache:Cache._kept"],
        "cache_conversation": ["cache:Cache.append", "cache:Cache._write"],
        "emit": ["realtime.broadcast:Broadcast.emit"],
        "request": ["web.http:HttpApi.send", "web.sockets:SocketApi._handler"],
        "respond": ["web.responses:message_response", "web.sockets:_acknowledged"],
    },
    "read": {
        "request": ["web.http:HttpApi.read"],
        "read_cache": ["cache:Cache.glimpse", "service:Service._through_window"],
        "read_store": ["service:Service._page", "store:Store.newest"],
        "respond": ["web.responses:history_response"],
    },
    "change": {
        "request": ["web.http:HttpApi.edit", "web.sockets:SocketApi._handler"],
        "save": ["service:Service._change", "store:Store.change"],
        "cache_message": ["cache:Cache.keep_changed", "cache:Cache._kept"],
        "cache_conversation": ["cache:Cache.change", "cache:Cache._write"],
        "emit": ["realtime.broadcast:Broadcast.emit"],
        "respond": ["web.responses:message_response", "web.sockets:_acknowledged"],
    },
}


def sources_of(plan: str) -> dict[str, list[Source]]:
    """The functions behind each box of this plan, the one that the diagram means first; under `way` the one that goes through them."""
    return {stage: [source(place) for place in places] for stage, places in [*BOXES[plan].items(), ("way", [WAYS[plan]])]}


def source(place: str) -> Source:
    """`{name, file, first, last, text}` of `module:name`, lines counted from 1."""
    module, name = place.split(":")
    function = attrgetter(name)(importlib.import_module(f"chatlab.{module}"))
    lines, first = inspect.getsourcelines(function)
    text = textwrap.dedent("".join(lines)).rstrip()
    return {"name": name, "file": f"chatlab/{module.replace('.', '/')}.py", "first": first, "last": first + len(lines) - 1, "text": text}
