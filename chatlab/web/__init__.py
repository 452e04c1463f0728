"""The transports, HTTP and Socket.IO: parse a request, call the service, answer. `app` creates and connects everything.

May import `service`, `local` and all that they import.
"""
