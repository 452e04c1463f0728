"""Redis: the only code that knows keys, TTLs and scripts.

May import `connections`, `protect` and `domain`. Does not know the store.
"""
