"""Find the Chromium for the browser tests.

Run as a script, this module installs one if necessary.
"""

import os
import shutil
import subprocess
import sys
from functools import cache

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chrome",
    "microsoft-edge",
)
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FIX = f"{sys.executable} -m playwright install --with-deps chromium   (or install your system's chromium package)"
# The updates that a new machine installs by itself can hold the lock for minutes.
WAIT_FOR_LOCK = ["-o", "DPkg::Lock::Timeout=300"]
PRINT_PLAYWRIGHT_PATH = "from playwright.sync_api import sync_playwright as p\nwith p() as it: print(it.chromium.executable_path)"


@cache
def chromium_path() -> str:
    """Return the path of a Chromium that starts: one on the PATH, or the one of Playwright.

    Raises FileNotFoundError, with the command that installs one.
    """
    on_path = (shutil.which(name) for name in NAMES)
    for found in (*on_path, shutil.which(MAC), _playwright_path()):
        if found and _starts(found):
            return found
    raise FileNotFoundError(f"The browser tests need Chromium, and none was found. Fix: {FIX}")


def _playwright_path() -> str | None:
    """Return the path of Playwright's Chromium.

    A child process reads it, because the synchronous API fails in an event loop.
    """
    result = subprocess.run(
        [sys.executable, "-c", PRINT_PLAYWRIGHT_PATH],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return shutil.which(result.stdout.strip())


def _starts(path: str) -> bool:
    """Return whether this browser runs.

    Ubuntu's chromium-browser may only recommend a snap, and a downloaded browser may lack a system
    library.
    """
    return (
        subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode
        == 0
    )


def install_commands() -> list[list[str]]:
    """Return the commands to try in turn.

    System packages are included only if this user may install them.
    """
    commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        commands += [
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-q", "-y", *WAIT_FOR_LOCK, "chromium"],
            [sys.executable, "-m", "playwright", "install-deps", "chromium"],
        ]
    return commands


def _is_installed() -> bool:
    chromium_path.cache_clear()
    try:
        chromium_path()
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    """Install Chromium if necessary. Exit with an error message if that fails."""
    for command in install_commands():
        if _is_installed():
            break
        print("No Chromium for the browser tests; running:", *command, file=sys.stderr, flush=True)
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=600, check=False
        )
    try:
        chromium_path()
    except FileNotFoundError as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
