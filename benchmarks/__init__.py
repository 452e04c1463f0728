"""chatlab beside what people would use instead, and beside the floors: `python -m benchmarks`."""
