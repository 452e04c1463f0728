"""Events that are owed: what they are about may be in MongoDB already."""

import asyncio

from chatlab.errors import ChatlabError


class OwedEvents:
    """Counts the blocks of code that save something and then emit it.

    A block that was cancelled still owes its event. One that raises an error for the client does
    not: nothing was saved, or the reconciler looks for it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._none: asyncio.Event | None = None  # only while one waits for it: each send runs this

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or issubclass(error, ChatlabError):
            self._count -= 1
            if self._none and self._count == 0:
                self._none.set()

    async def wait_until_none(self) -> None:
        """Return when no event is owed, which may be never."""
        self._none = asyncio.Event()
        if self._count:
            await self._none.wait()
