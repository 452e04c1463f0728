"""Events to the sockets of users, in this process and in others, and who is online.

`broadcast` delivers events, `presence` knows who is online, `packets` encodes what goes through a
socket. May import `connections`, `protect` and `domain`.
"""
