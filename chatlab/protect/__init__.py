"""Protection against overload and outages: the circuit breaker, the rate limits and the batcher.

May import `errors`, `settings` and `metrics`.
"""
