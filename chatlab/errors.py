"""What can go wrong, in the words of the domain. A door turns each into a status or an ack; nobody else does.

    ChatlabError
    ├── Invalid            the input is not what was asked for
    ├── Unauthenticated    no session, or one that has ended
    ├── NotFound           not there, or not for you: the two look alike
    ├── Forbidden          yours to see, not yours to change
    ├── Conflict           it contradicts what is already there
    ├── TooLarge           more bytes than a request may have
    ├── RateLimited        too much at once; try again later
    ├── StoreUnavailable   MongoDB cannot answer; nothing was acknowledged
    └── EngineError        a private MongoDB or Redis cannot be had (never leaves start-up)

"Redis is down" is not here: no request ever fails for it (see `cache`).
"""


class ChatlabError(Exception):
    """`detail` is for a person and never repeats the input; `code` is for a program."""

    code = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Invalid(ChatlabError):
    code = "invalid"


class Unauthenticated(ChatlabError):
    code = "unauthenticated"


class NotFound(ChatlabError):
    code = "not_found"


class Forbidden(ChatlabError):
    code = "forbidden"


class Conflict(ChatlabError):
    code = "conflict"


class TooLarge(ChatlabError):
    code = "too_large"


class RateLimited(ChatlabError):
    """`retry_after`: seconds until the next try can succeed."""

    code = "rate_limited"

    def __init__(self, detail: str, retry_after: float = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class StoreUnavailable(ChatlabError):
    code = "store_unavailable"

    def __init__(self, detail: str = "MongoDB does not answer. Try again (a send with the same clientId).", retry_after: float = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class EngineError(ChatlabError):
    """`detail` says what is wrong with an engine; `fix` is the command or setting that fixes it."""

    code = "engine"

    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(detail)
        self.fix = fix
        if fix:
            self.add_note(f"Fix: {fix}")  # a notebook shows the traceback alone
