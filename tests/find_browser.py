"""The Chromium that browser tests drive. Run as a script, it gets one the way this machine offers, or says what is missing."""

import os
import shutil
import subprocess
import sys
from functools import cache

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
MEND = f"{sys.executable} -m playwright install --with-deps chromium   (or install your system's chromium package)"
PLAYWRIGHTS_OWN = "from playwright.sync_api import sync_playwright as p\nwith p() as it: print(it.chromium.executable_path)"


@cache
def chromium_path() -> str:
    """The path of a Chromium that starts: from the PATH, else Playwright's own. Raises FileNotFoundError with the mending command."""
    on_path = (shutil.which(name) for name in NAMES)
    for found in (*on_path, shutil.which(MAC), _playwrights_own()):
        if found and _starts(found):
            return found
    raise FileNotFoundError(f"No Chromium, which the browser tests need. To mend: {MEND}")


def _playwrights_own() -> str | None:
    """Asked in another process: Playwright's blocking interface refuses to run inside an event loop."""
    said = subprocess.run([sys.executable, "-c", PLAYWRIGHTS_OWN], capture_output=True, text=True, timeout=60, check=False)
    return shutil.which(said.stdout.strip())


def _starts(path: str) -> bool:
    """Ubuntu's chromium-browser may only be an advertisement for a snap, and a downloaded one may lack a system library."""
    return subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0


def ways_to_get_one() -> list[list[str]]:
    """Commands to try in turn until a Chromium starts; the system's packages only where we may install them."""
    ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        ways += [
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-q", "-y", "chromium"],
            [sys.executable, "-m", "playwright", "install-deps", "chromium"],
        ]
    return ways


def _is_there() -> bool:
    chromium_path.cache_clear()
    try:
        chromium_path()
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    """Exit 0 once a Chromium starts; else name the one thing missing."""
    for way in ways_to_get_one():
        if _is_there():
            break
        print("No Chromium for the browser tests; trying:", *way, file=sys.stderr, flush=True)
        subprocess.run(way, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=600, check=False)
    try:
        chromium_path()
    except FileNotFoundError as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
