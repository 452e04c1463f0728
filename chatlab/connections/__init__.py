"""How the service talks to MongoDB and Redis: clients, time limits, pipelining.

Knows no collection and no key. May import `protect` and the layers below it.
"""
