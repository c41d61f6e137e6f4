"""The settings of the record of the fleet, which the configuration fills."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The size of the record of the fleet, and where it is kept.

    Attributes:
        max_clusters: how many clusters it knows; 0: there is no record.
        retention: after how many seconds without a word a cluster is forgotten.
        database: the SQLite file that it is kept in; empty: in memory only.
    """

    max_clusters: int
    retention: float = 30 * 86_400.0
    database: str = ""
