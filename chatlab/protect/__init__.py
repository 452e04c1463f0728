"""Protection against overload and outages: circuit breaker, rate limits, single flight, batching.

May import `errors`, `settings` and `metrics`.
"""
