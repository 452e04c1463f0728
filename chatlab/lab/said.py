"""A sentence that a cell shows without quotes; and errors in words."""


class Said(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def words(wrong: BaseException) -> str:
    """An error in words; its name where it has none."""
    return str(wrong) or type(wrong).__name__
