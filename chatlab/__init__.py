"""chatlab: a messaging service with a five-second cache, and the notebooks that take it apart.

Read the modules in the order of `chatlab.READING_ORDER`; each imports only from those before it.
"""

__version__ = "0.1.0"

READING_ORDER = (
    "errors",
    "settings",
    "identity",
    "message",
    "requests",
    "flow",
    "metrics",
    "driver_calls",
    "watchdog",
    "breaker",
    "limits",
    "store",
    "accounts",
    "pipe",
    "cache",
    "hub",
    "service",
    "http_api",
    "socket_api",
    "lab_api",
    "sweeper",
    "programs",
    "keeper",
    "engines",
    "pages",
    "app",
    "protocol",
    "serving",
    "doctor",
    "client",
    "demo",
    "bench",
    "cli",
    "lab",
)
