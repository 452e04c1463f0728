"""`python -m benchmarks`: compare chatlab with servers of the usual kind, on the same engines.

`registry` lists the benchmarks. `throughput`, `latency` and `footprint` contain them. They start
servers in an `environment`, create load with `generators`, and return a `result`. `page` writes the
results into README.md.
"""
