"""One module for each notebook: its checks, its experiments, and the mistakes that it makes on purpose.

A notebook imports its own as `lesson`. A check is a coroutine of `verdicts.check`; `claims` holds the document against what was measured.
"""
