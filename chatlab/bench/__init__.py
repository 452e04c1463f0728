"""`chatlab bench`: measure the document's performance and memory tables on this machine.

`measure` is the command. It starts private servers (`environment`), compares the service with and
without its cache (`comparisons`), measures the memory of cached messages (`memory`), judges the
document's claims (`claims`) and prints the result (`report`, `tables`). `raw_http`, `samples`,
`charts` and `machine` are also used by the notebooks and by `benchmarks/` in the repository.

This package imports `run`, `local` and the layers below; `chatlab.cli` and `chatlab.lab` import it.
"""
