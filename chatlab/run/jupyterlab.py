"""JupyterLab, for `chatlab lab`: it starts 3 s sooner than with the command `jupyter-lab`.

A library that checks IRIs, which JupyterLab works without, builds its parser when it is imported.
"""

import sys

# Python documents that None makes an import fail; jsonschema then works without it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

from jupyterlab.labapp import main  # noqa: E402 - after the line above

if __name__ == "__main__":
    sys.exit(main())
