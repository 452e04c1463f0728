"""Limits that processes share: what counts as one address, and how a process counts by itself."""

import pytest

from chatlab.errors import RateLimited
from chatlab.protect.rate_limit import SharedLimit, address_group, take_all


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unknown", "unknown"),
    ],
)
def test_an_address_counts_as_its_group(address: str, group: str) -> None:
    """An IPv4 address counts for itself, an IPv6 address for its /64."""
    assert address_group(address) == group


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def local_limit(per_minute: int, clock: Clock, *, is_forgiving: bool = False) -> SharedLimit:
    """Return a limit without Redis."""

    async def no_redis(*_: object) -> None:
        """Reply as the pipeline does while Redis is away."""

    return SharedLimit(
        "limit:test", per_minute, "Too many.", no_redis, is_forgiving=is_forgiving, clock=clock
    )


async def test_a_window_begins_with_the_first_attempt_and_lasts_a_minute() -> None:
    """The error has the seconds until the next attempt. A refused attempt does not count."""
    clock = Clock()
    limit = local_limit(2, clock)
    await limit.take("ann")
    clock.seconds = 20.5
    await limit.take("ann")
    for act in (limit.take, limit.check):
        with pytest.raises(RateLimited, match=r"^Too many\. Try again in 40 s\.$") as refused:
            await act("ann")
        assert refused.value.retry_after == 40
    await limit.take("bob")
    clock.seconds = 60
    await limit.check("ann")  # counts nothing
    await limit.take("ann")
    await limit.take("ann")
    with pytest.raises(RateLimited):
        await limit.take("ann")


@pytest.mark.parametrize(("is_forgiving", "attempts_left"), [(False, 1), (True, 3)])
async def test_an_attempt_that_succeeded_does_not_count(
    is_forgiving: bool,
    attempts_left: int,
) -> None:
    """A forgiving limit forgets the failed attempts before it too."""
    limit = local_limit(3, Clock(), is_forgiving=is_forgiving)
    for _ in range(3):
        await limit.take("ann")
    await limit.give_back("ann")
    for _ in range(attempts_left):
        await limit.take("ann")
    with pytest.raises(RateLimited):
        await limit.take("ann")


async def test_an_attempt_counts_for_all_its_limits_or_for_none() -> None:
    """If the second limit refuses it, the first one does not count it."""
    first, second = local_limit(2, Clock()), local_limit(1, Clock())
    await take_all([(first, "address"), (second, "name")])
    for _ in range(3):
        with pytest.raises(RateLimited):
            await take_all([(first, "address"), (second, "name")])
    await first.take("address")
    with pytest.raises(RateLimited):
        await first.take("address")


async def test_a_limit_of_0_is_no_limit() -> None:
    """Nothing is counted."""
    limit = local_limit(0, Clock())
    for _ in range(100):
        await limit.take("ann")
