"""The time limits for Redis. All of them follow from one setting, `CHATLAB_REDIS_TIMEOUT`.

A process that gives up a write acknowledges what the other processes cannot see in Redis. They must
notice before that that Redis is silent, so for all processes together this must hold:

    check_interval_s + late_reply_s + farthest_s < answer_s

docs/cache.md explains it, and tests/window_model.py shows what happens otherwise.
"""

LONGEST_CHECK_INTERVAL_S = 1.0  # also how an idle process without others notices an outage
SHORTEST_CONNECT_S = 5.0  # a connection takes several round trips; no request waits for it


class RedisLimits:
    """The limits in seconds that belong to one value of the setting.

    `answer_s`: after this time without a reply, a process gives up. `check_interval_s`: between two
    checks of a process that is not the only one. `late_reply_s`: a reply to a check that takes
    longer counts as an outage. `farthest_s`: if a round trip takes longer, Redis is too far away
    for the cache. `connect_s`: for a new connection, and for a probe.
    """

    def __init__(self, answer_s: float) -> None:
        self.answer_s = answer_s
        self.check_interval_s = min(answer_s / 4, LONGEST_CHECK_INTERVAL_S)
        self.late_reply_s = answer_s * 0.4
        self.farthest_s = answer_s / 4
        self.connect_s = max(5 * answer_s, SHORTEST_CONNECT_S)
