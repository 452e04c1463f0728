"""The key that opens the page `/lab` for the presenter, and the addresses that contain it."""

import contextlib
import os
import secrets

from chatlab.local.data_folder import DataFolder
from chatlab.settings import Settings
from chatlab.web.lab_access import KEY_BYTES, viewer_key_of

FILE = "lab-key"


def presenter_key(settings: Settings) -> str:
    """Return the key of the setting, or that of the data folder, which is created if necessary.

    So an address stays the same after a restart. Without private servers there is no data folder,
    and the key is a new one.
    """
    if settings.lab_key:
        return settings.lab_key
    if settings.mongo_url and settings.redis_url:
        return secrets.token_urlsafe(KEY_BYTES)
    path = DataFolder(settings).path / FILE
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(private, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(KEY_BYTES))
    return path.read_text(encoding="ascii").strip()


def lab_addresses(url: str, key: str) -> tuple[str, str]:
    """Return the address of the page for the presenter, and the one for those who only watch.

    A browser does not send what follows `#` to a server, so the keys are in no access log.
    """
    return f"{url}/lab#key={key}", f"{url}/lab#key={viewer_key_of(key)}"
