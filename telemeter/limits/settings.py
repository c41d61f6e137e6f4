"""The settings of the limits, which the configuration fills."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """The rate limit of uploads.

    Attributes:
        seconds: the shortest time between two uploads of a cluster; 0: no limit.
    """

    seconds: float
