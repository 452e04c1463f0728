"""The environment of a kernel for the tests of the notebook side."""

# It replaces the manager of comms, so it must be imported before the first widget, as in a kernel.
import ipykernel.ipkernel  # noqa: F401
