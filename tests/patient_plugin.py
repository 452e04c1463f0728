"""The fixture `patient_shared`. To use it, set `pytest_plugins = ["patient_plugin"]` and define a fixture `shared` that returns it."""

import secrets
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
import redis
from patient import TTL_S, PatientService, PatientSharedService
from shared_service import SharedService

from chatlab.local.engines import Engines


@pytest.fixture(scope="session")
def patient_shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """One patient service for all modules that use it. At the end every key must have an expiry."""
    space = f"patient{secrets.token_hex(4)}"
    settings = {"DATABASE": space, "KEY_PREFIX": f"{space}:", "FLOW": "1", "CACHE_TTL": str(TTL_S)}
    with pymongo.MongoClient[dict[str, Any]](engines.mongo.url) as mongo, redis.Redis.from_url(engines.redis.url) as keys:
        service = PatientService(engines.mongo.url, engines.redis.url, tmp_path_factory.mktemp("patient") / "log", **settings)
        try:
            yield PatientSharedService(service.wait_until_reachable(), mongo[space], keys, f"{space}:")
            leaked = [key for key in keys.scan_iter(f"{space}:*") if keys.pttl(key) == -1]
            assert not leaked, f"keys without an expiry: {leaked}"
            keys.delete(f"{space}:probe", *keys.scan_iter(f"{space}:*"))
        finally:
            service.kill()
            mongo.drop_database(space)
