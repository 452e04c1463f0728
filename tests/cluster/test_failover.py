"""Elections under load: no answered message is lost, and no read is older than one TTL."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from faults import Deployment, frozen
from http_clients import fetch
from live import Service, User
from load import Account, more_answers, under_load
from members import kill, primary_of, restart, secondaries_of
from waiting import wait_until

pytestmark = pytest.mark.slow
log = logging.getLogger(__name__)

ROUNDS = 10
TTL_S = 1.0
PAUSE_S = 0.05  # between two sends of a writer, and between two reads of a reader


@pytest.fixture(scope="module")
def pair(deployment: Deployment) -> tuple[Service, Service]:
    """Two processes of one service."""
    settings = {"CACHE_TTL": str(TTL_S)}
    return deployment.start(**settings), deployment.start(**settings)


@contextlib.asynccontextmanager
async def watched_load(
    deployment: Deployment, pair: tuple[Service, Service]
) -> AsyncIterator[Account]:
    """Run writers and readers. Every read has all messages that were answered a TTL before it."""
    is_over = asyncio.Event()
    async with under_load(deployment, pair, pause_s=PAUSE_S) as (account, alice, bob):
        readers = [
            asyncio.create_task(read(account, reader, other, is_over))
            for reader, other in ((alice, bob), (bob, alice))
        ]
        yield account
        is_over.set()
        counts = await asyncio.gather(*readers)
        assert min(counts) > ROUNDS
    log.info(
        "%d sends answered, %d not; no answer for %.1f s at most; %d reads answered",
        len(account.answered),
        len(account.unanswered),
        account.longest_pause_s(),
        sum(counts),
    )
    for service in pair:
        assert fetch(f"{service.url}/readyz").json()["status"] == "ok"


async def read(account: Account, reader: User, other: User, is_over: asyncio.Event) -> int:
    """Read until `is_over`, and return the number of reads that were answered."""
    answered = 0
    while not is_over.is_set():
        expected = account.highest_seq(before=time.monotonic() - TTL_S)
        answer = await reader.read(other, limit=20)
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            answered += 1
            newest = answer.json()[-1]["seq"]
            assert newest >= expected, answer.headers["x-cache"]
        await asyncio.sleep(PAUSE_S)
    return answered


async def test_killing_the_primary_loses_nothing(
    deployment: Deployment, pair: tuple[Service, Service]
) -> None:
    """The others elect a new primary, and the old one comes back as a secondary."""
    async with watched_load(deployment, pair) as account:
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
    async with watched_load(deployment, pair) as account:
        for _ in range(ROUNDS):
            primary = await asyncio.to_thread(primary_of, deployment)
            with frozen(deployment.pid(primary)):
                is_another = partial(lambda old: primary_of(deployment) != old, primary)
                await wait_until(is_another, "another primary")
                await more_answers(account, 50)
            await more_answers(account, 50)
