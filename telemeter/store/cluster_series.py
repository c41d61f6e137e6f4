"""The series of one cluster in the embedded store, for the page that shows them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from telemeter.samples.selector import NAME
from telemeter.samples.stored_series import StoredSeries
from telemeter.store.escaped_names import label_of
from telemeter.store.records import histogram_of, time_of
from telemeter.store.store import Store

_VALUE: Final = struct.Struct("<xd")


class StoreSeries:
    """The series of a store's clusters."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def series(self, cluster: str) -> Iterator[StoredSeries]:
        """Return the series of a cluster, by name; none if it is not known.

        The value of a native histogram is the number of its observations.
        """
        kept = self._store.cluster(cluster)
        name = None if kept is None else kept.first_name()
        while kept is not None and name is not None:
            for chosen in kept.walk(name, _any):
                for labels, sample in chosen:
                    named = {NAME: name.decode(), **dict(map(label_of, labels))}
                    yield StoredSeries(named, _value(sample), time_of(sample))
            name = kept.name_after(name)


def _any(labels: list[bytes]) -> bool:
    return True


def _value(sample: bytes) -> float:
    if sample[0] & 1:
        histogram = histogram_of(sample)
        return float(histogram.count_int or histogram.count_float)
    value: float = _VALUE.unpack_from(sample)[0]
    return value
