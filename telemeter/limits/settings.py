"""What the limits need to know from the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """How often a cluster may upload.

    Attributes:
        seconds: the shortest time between two uploads of a cluster; 0: no limit.
    """

    seconds: float
