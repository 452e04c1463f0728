"""MongoDB: the only code that knows collections and fields.

May import `connections`, `protect` and `domain`. Does not know the cache.
"""
