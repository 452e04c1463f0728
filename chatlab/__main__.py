"""The command `chatlab`, and `python -m chatlab`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C exits with status 130, also while the libraries are loading."""
    try:
        from chatlab.cli import main as run  # noqa: PLC0415 - takes half a second, see above

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
