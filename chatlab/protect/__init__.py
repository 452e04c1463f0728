"""Protection against overload and outages: the circuit breaker and the rate limits.

May import `errors`, `settings` and `metrics`.
"""
