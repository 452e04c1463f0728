"""Private MongoDB and Redis servers for one data folder, started on demand and stopped with their last user.

May import `errors`, `settings` and `connections`.
"""
