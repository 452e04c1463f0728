"""`python -m chatlab`: the same as the command `chatlab`."""

from chatlab.cli import main

main()
