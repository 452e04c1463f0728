"""Processes: serving, child services, JupyterLab, `chatlab doctor`.

May import `web` and all that it imports.
"""
