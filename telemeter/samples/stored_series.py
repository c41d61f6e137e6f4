"""A source of the series of a cluster, with their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol


class StoredSeries(NamedTuple):
    """A series and its latest sample.

    Attributes:
        labels: its labels, `__name__` among them.
        value: the sample's value.
        timestamp_ms: the sample's time, in milliseconds since the epoch.
    """

    labels: Mapping[str, str]
    value: float
    timestamp_ms: int


class SeriesSource(Protocol):
    """A holder of series, such as the embedded store."""

    def series(self, cluster: str) -> Iterable[StoredSeries]:
        """Return the series of a cluster; none if it is not known. Need not be read to the end."""
        ...
