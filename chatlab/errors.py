"""The errors of the domain. Each transport has one table that turns them into its replies.

    ChatlabError
    ├── Invalid            the input does not have the required form
    ├── Unauthenticated    there is no session, or it has ended
    ├── NotFound           it does not exist, or this user may not know that it does
    ├── Forbidden          this user may see it, but not change it
    ├── Conflict           it contradicts what is already stored
    ├── TooLarge           the request has more bytes than allowed
    ├── UnsupportedMediaType   the body of a request is not declared as JSON
    ├── Misdirected        the request names a host that this service does not answer to
    ├── RateLimited        too many requests in a short time; a later one can succeed
    ├── StoreUnavailable   MongoDB cannot answer; nothing was acknowledged
    └── EngineError        a server or tool that chatlab needs on this machine does not work

There is no error for Redis: no request fails because Redis is unavailable (see `chatlab.cache`).
"""


class ChatlabError(Exception):
    """Base of all errors. `detail` is a sentence for people, without any input; `code` is fixed."""

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


class UnsupportedMediaType(ChatlabError):
    code = "unsupported_media_type"


class Misdirected(ChatlabError):
    code = "misdirected_request"


class RateLimited(ChatlabError):
    """`retry_after`: seconds until another attempt can succeed."""

    code = "rate_limited"

    def __init__(self, detail: str, retry_after: float = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class StoreUnavailable(ChatlabError):
    """`retry_after`: seconds after which another attempt is worthwhile."""

    code = "store_unavailable"

    def __init__(
        self,
        detail: str = "MongoDB cannot answer. Try again (a send with the same clientId).",
        retry_after: float = 1,
    ) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class EngineError(ChatlabError):
    """`detail` says what does not work; `fix` is a command or a setting that solves it, or empty.

    Only commands and notebooks raise it, never a request to the service.
    """

    code = "engine"

    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(detail)
        self.fix = fix
        if fix:
            self.add_note(f"Fix: {fix}")  # shown in tracebacks, for example in a notebook
