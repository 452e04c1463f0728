"""`chatlab bench` in its parts: `measure` is the command; the others can be used alone, and `benchmarks/` of the repository does."""
