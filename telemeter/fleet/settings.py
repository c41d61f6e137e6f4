"""What the record of the fleet needs to know from the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What the record of the fleet holds.

    Attributes:
        max_clusters: how many clusters it knows; 0: there is no record.
    """

    max_clusters: int
