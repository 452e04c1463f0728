"""Processes: the service, a service as a child process, the sweeper, JupyterLab, the doctor.

May import `web` and everything that `web` may import.
"""
