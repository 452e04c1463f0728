"""Text that a cell shows without quotes, and the text of an error."""


class PlainText(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def error_text(error: BaseException) -> str:
    """Return the error's message, or its class name if it has none."""
    return str(error) or type(error).__name__
