"""The warning of a program that runs without its compiled modules, and what that costs."""

from __future__ import annotations

import os

from twisted.logger import Logger

log = Logger()


def warn_of_python(kind: str, cost: str, switch: str = "") -> None:
    """Warn if Python alone does the work.

    Args:
        kind: the `KIND` of the module that does it: `compiled` or `python`.
        cost: what that costs; the figures are those of docs/performance.md.
        switch: the environment variable that asks for Python alone; empty: there is none.
    """
    if kind == "compiled":
        return
    if switch and os.environ.get(switch) == "python":
        log.warn(f"{switch}=python: the compiled modules are not used, {cost}")
        return
    log.warn(
        f"the compiled modules are missing: {cost}. Install a compiler (apt install gcc "
        "python3-dev), and telemeter from its source again: pip install --force-reinstall "
        "--no-deps --no-cache-dir --no-binary telemeter, and where that is"
    )
