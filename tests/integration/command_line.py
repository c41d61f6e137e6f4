"""Run a daemon that is expected to end by itself."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from demo.programs import twistd

if TYPE_CHECKING:
    from pathlib import Path


def run_twistd(
    plugin: str, *flags: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a daemon until it ends, and return what it wrote."""
    return subprocess.run(
        twistd(plugin, *flags),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
