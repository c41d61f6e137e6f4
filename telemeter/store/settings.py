"""The settings of the embedded store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The limits of the store.

    Attributes:
        retention: for how many seconds after its last request a cluster's series are kept.
        max_series: how many series are kept at the most.
    """

    retention: float
    max_series: int
