"""Private MongoDB and Redis servers for one data folder, started on demand and stopped with their
last client.

May import `errors` and `settings`.
"""
