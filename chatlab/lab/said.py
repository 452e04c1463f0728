"""A sentence that a cell shows without quotes, and the text of an error."""


class Said(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def words(wrong: BaseException) -> str:
    """Return the error's message, or its class name if it has none."""
    return str(wrong) or type(wrong).__name__
