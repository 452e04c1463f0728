"""The checker of notebook 15: which caches pass, and the picture of an order that breaks one."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId

from chatlab.lab import Lab, check_cache, start
from chatlab.lab.cache_checker import passes
from chatlab.lab.checks import BLANK, CORRECT, NOT_YET
from chatlab.local.engines import Engines

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """Return a session without a sweeper."""
    own: dict[str, Any] = {
        "mongo_url": engines.mongo.url,
        "data_dir": tmp_path_factory.mktemp("lab"),
    }
    lab = await start("checker", sweeper=False, **own)
    yield lab
    await lab.end()


class CacheAside:
    """The usual pattern: a read fills, and a write deletes."""

    def __init__(self, r: Any, db: Any) -> None:
        self.r, self.db = r, db

    def send(self, a: str, b: str, text: str) -> Any:
        pair = ":".join(sorted([a, b]))
        message = {"_id": str(ObjectId()), "conversation": pair, "version": 1, "text": text}
        self.db.chat.insert_one(message)
        self.r.delete(f"messages:{pair}")
        return message

    def change(self, message_id: str, text: str) -> Any:
        new = {"$set": {"text": text}, "$inc": {"version": 1}}
        message = self.db.chat.find_one_and_update({"_id": message_id}, new, return_document=True)
        self.r.delete(f"messages:{message['conversation']}")
        return message

    def read(self, a: str, b: str) -> Any:
        pair = ":".join(sorted([a, b]))
        if cached := self.r.get(f"messages:{pair}"):
            return json.loads(cached)
        messages = list(self.db.chat.find({"conversation": pair}).sort("_id"))
        self.fill(f"messages:{pair}", json.dumps(messages))
        return messages

    def fill(self, key: str, value: str) -> None:
        self.r.set(key, value, ex=5)


async def test_cache_aside_is_right_only_one_at_a_time(lab: Lab) -> None:
    """The picture shows a late fill: a query, then a write, then the fill of the old value."""
    assert (await passes(lab, "one at a time", CacheAside)).kind == CORRECT
    result = await passes(lab, "in every order", CacheAside)
    assert result.kind == NOT_YET
    assert result.picture
    steps = [f"{step.lane} {step.text.split()[0]}" for step in result.picture.steps]
    written = next(steps.index(one) for one in steps if one in ("sender DEL", "editor DEL"))
    assert steps.index("reader find") < written < steps.index("reader SET")
    assert steps[-1] == "result a"
    assert "<img" in result._repr_html_()


async def test_a_key_without_an_expiry_is_found_after_each_command(lab: Lab) -> None:
    """Also if the next command sets one."""

    class TwoSteps(CacheAside):
        def fill(self, key: str, value: str) -> None:
            self.r.set(key, value)
            self.r.expire(key, 5)

    result = await passes(lab, "one at a time", TwoSteps)
    assert (result.kind, "PTTL of messages:dave:erin is -1" in result.text) == (NOT_YET, True)


async def test_a_cache_that_caches_nothing_is_found(lab: Lab) -> None:
    """It would pass all tests about stale reads."""

    class Nothing(CacheAside):
        def fill(self, key: str, value: str) -> None:
            pass

    assert "asked MongoDB, too" in (await passes(lab, "one at a time", Nothing)).text


async def test_what_is_no_class_or_has_no_methods_is_no_error(lab: Lab) -> None:
    """A check never raises."""

    class Empty: ...

    class Broken(CacheAside):
        def read(self, a: str, b: str) -> Any:
            raise ZeroDivisionError

    assert (await check_cache(lab, Empty)).kind == BLANK
    assert (await check_cache(lab, "a class")).kind == NOT_YET
    assert "ZeroDivisionError" in (await check_cache(lab, Broken)).text
