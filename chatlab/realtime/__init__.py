"""Events to the sockets of users, in this process and in others, and who is online.

`broadcast` delivers events, `presence` knows who is online, `partners` who learns of it, `packets`
encodes what goes through a socket. May import `connections`, `protect` and `domain`.
"""
