"""Servers to compare chatlab with: two chat servers of the usual kind, and a bare application.

The bare application shows the floor, which is what the libraries and Redis need at least.
"""
