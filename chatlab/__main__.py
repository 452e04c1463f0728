"""The command `chatlab`, and `python -m chatlab`: `cli`, and Ctrl-C is a plain end even while the libraries are still loading."""

import sys


def main() -> None:
    """Load the command line, and run it."""
    try:
        from chatlab.cli import main as run  # noqa: PLC0415 - half of a second in which somebody may press Ctrl-C

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
