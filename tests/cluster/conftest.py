"""Fixtures for tests of servers with several members."""

from collections.abc import Iterator

import pytest
from faults import Deployment, open_deployment

from chatlab.local.engines import Engines, open_engines
from chatlab.settings import load_settings


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Return a MongoDB with three members, and a Redis. Tests may stop and freeze them."""
    folder = tmp_path_factory.mktemp("members")
    settings = load_settings(data_dir=folder, mongo_url=None, redis_url=None)
    with open_engines(settings, replica_set=True) as found:
        yield found


@pytest.fixture(scope="module")
def deployment(
    replica_set: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Return a deployment of one module on the replica set."""
    with open_deployment(replica_set, tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment
