"""Events to the sockets of users, in this process and in others, and who is online.

May import `connections`, `protect` and `domain`.
"""
