"""The transports, HTTP and Socket.IO: parse a request, call the service, answer.

`app` creates and connects all parts. This package may import `service` and `local`, and everything
that these import.
"""
