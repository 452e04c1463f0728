"""Redis: the only code that knows keys, TTLs and scripts.

`cache.py` is what the service calls; `sweeper.py` is the background worker. This folder may import
`connections`, `protect` and `domain`. It does not know the store.
"""
