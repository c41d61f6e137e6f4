"""What runs here: versions, as a metric."""

from __future__ import annotations

import platform
from typing import Final

from prometheus_client import Gauge

from twisted import __version__ as twisted_version

BUILD: Final = Gauge(
    "telemeter_build_info",
    "1, with the versions of what runs, and which code converts: compiled, or python.",
    ["version", "python", "twisted", "transcoder"],
    multiprocess_mode="livemax",
)


def tell_build(version: str, transcoder: str) -> None:
    """Show what runs.

    Args:
        version: of this package.
        transcoder: which code converts.
    """
    BUILD.labels(version, platform.python_version(), twisted_version, transcoder).set(1)
