"""Which releases of MongoDB, Redis and Valkey have no known security holes.

docs/operations.md shows the same table. Check the release notes when you change a row, and change
CHECKED with it.
"""

import re
from datetime import date
from typing import NamedTuple

CHECKED = date(2026, 11, 27)  # when all rows were compared with the release notes
OLD_AFTER_MONTHS = 6

_IMAGES = "https://github.com/docker-library/official-images/pull"
_VALKEY = "https://github.com/valkey-io/valkey/releases/tag"


class SafeRelease(NamedTuple):
    """The first release of a line without known holes. `closes` is what it fixed last."""

    number: tuple[int, int, int]
    published: str
    closes: str
    source: str


# A line that is missing gets no fixes any more. Its releases count as older than the next line.
SAFE_RELEASES: dict[str, tuple[SafeRelease, ...]] = {
    "MongoDB": tuple(
        SafeRelease(number, "2026-09-14", "CVE-2026-89099", f"{_IMAGES}/22261")
        for number in ((7, 0, 43), (8, 0, 32), (8, 3, 11))
    ),
    "Redis": (
        *(
            SafeRelease(number, "2026-07-24", "RESTORE of a stream", f"{_IMAGES}/21922")
            for number in ((6, 2, 23), (7, 2, 15), (7, 4, 10))
        ),
        *(
            SafeRelease(number, "2026-09-18", "cluster and ACL", f"{_IMAGES}/22312")
            for number in ((8, 2, 10), (8, 6, 7), (8, 8, 3), (8, 10, 2))
        ),
    ),
    "Valkey": tuple(
        SafeRelease(
            number,
            "2026-07-21",
            "CVE-2026-56684, CVE-2026-63639",
            f"{_VALKEY}/{'.'.join(map(str, number))}",
        )
        for number in ((7, 2, 14), (8, 0, 10), (8, 1, 9), (9, 0, 5), (9, 1, 1))
    ),
}


def old_version(label: str, version: str) -> str | None:
    """Return a warning if a later release closes known security holes.

    `label` is MongoDB or Redis; the version of a Valkey ends in `(Valkey)`.
    """
    releases = SAFE_RELEASES["Valkey" if "Valkey" in version else label]
    number = tuple(map(int, re.findall(r"\d+", version)[:3]))
    safe = next((one.number for one in releases if one.number[:2] >= number[:2]), None)
    if not number or safe is None or number >= safe:
        return None
    since = ".".join(map(str, safe))
    risk = "which closes known security holes: for one person on one machine only"
    return f"{label} {version} is older than {since}, {risk}"


def months_since_check(today: date) -> int:
    """Return how many months ago the table was checked."""
    return (today.year - CHECKED.year) * 12 + today.month - CHECKED.month
