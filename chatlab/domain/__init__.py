"""What the service is about: user ids, conversations, messages, requests, traces. Pure: no I/O, no framework.

May import `errors` and `settings`.
"""
