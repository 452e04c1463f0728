"""A sentence that a cell shows without quotes."""


class Said(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
