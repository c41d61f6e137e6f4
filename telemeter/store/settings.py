"""The settings of the embedded store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: How many bytes series take at the most, unless it is configured.
MOST_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The limits of the store.

    Attributes:
        retention: for how many seconds after its last request a cluster's series are kept.
        max_series: how many series are kept at the most.
        max_bytes: how many bytes they take at the most, roughly.
    """

    retention: float
    max_series: int
    max_bytes: int = MOST_BYTES
