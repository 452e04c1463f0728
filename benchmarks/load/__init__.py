"""A load generator: `python -m benchmarks.load`, in a process of its own.

It does what wrk cannot do: send requests at a constant rate, send messages over sockets, and keep
sockets open. Where wrk is not installed, it replaces it. It reads one line of JSON from standard
input and prints one line of JSON. To leave the cores to the server it speaks both protocols with
little code, on uvloop: about ten microseconds for each request.
"""
