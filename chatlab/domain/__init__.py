"""The domain: user ids, conversations, messages, requests and traces. Pure code without I/O.

May import `errors` and `settings`.
"""
