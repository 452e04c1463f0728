"""One module for each notebook: the checks of its exercises, and its measurements.

A notebook imports its module as `lesson`. `claims` computes the verdicts from what was measured.
"""
