"""The settings of the record of the fleet, which the configuration fills."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The size of the record of the fleet.

    Attributes:
        max_clusters: how many clusters it knows; 0: there is no record.
    """

    max_clusters: int
