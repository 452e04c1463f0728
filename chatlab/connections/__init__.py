"""How the service talks to MongoDB and Redis: clients, limits in time, pipelines. Knows no collection and no key.

May import `protect` and what is above it.
"""
