"""Elections under load: no answered message is lost, and no read is older than one TTL."""

import asyncio
from functools import partial

import pytest
from faults import Deployment, frozen
from live import Service
from load import more_answers, watched_load
from members import kill, primary_of, restart, secondaries_of
from waiting import wait_until

pytestmark = pytest.mark.slow

ROUNDS = 10
TTL_S = 1.0


@pytest.fixture(scope="module")
def deployment(replicated_deployment: Deployment) -> Deployment:
    """Use a MongoDB with three members."""
    return replicated_deployment


@pytest.fixture(scope="module")
def pair(deployment: Deployment) -> tuple[Service, Service]:
    """Two processes of one service."""
    settings = {"CACHE_TTL": str(TTL_S)}
    return deployment.start(**settings), deployment.start(**settings)


async def test_killing_the_primary_loses_nothing(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """The others elect a new primary, and the old one comes back as a secondary."""
    async with watched_load(deployment, pair, ttl_s=TTL_S) as account:
        for _ in range(ROUNDS):
            primary = await asyncio.to_thread(primary_of, deployment)
            await asyncio.to_thread(kill, deployment, primary)
            await more_answers(account, 50)
            await asyncio.to_thread(restart, deployment, primary)
            await asyncio.to_thread(secondaries_of, deployment)
            await more_answers(account, 50)


async def test_freezing_the_primary_loses_nothing(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """The others elect a new primary. The old one notices it when it continues."""
    async with watched_load(deployment, pair, ttl_s=TTL_S) as account:
        for _ in range(ROUNDS):
            primary = await asyncio.to_thread(primary_of, deployment)
            with frozen(deployment.pid(primary)):
                is_another = partial(lambda old: primary_of(deployment) != old, primary)
                await wait_until(is_another, "another primary")
                await more_answers(account, 50)
            await more_answers(account, 50)
