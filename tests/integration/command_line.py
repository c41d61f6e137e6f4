"""Run a daemon that is expected to end by itself."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from demo.programs import twistd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def run_twistd(
    plugin: str,
    *flags: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a daemon until it ends, with additions to its environment; return what it wrote."""
    return subprocess.run(
        twistd(plugin, *flags),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
