"""The series of one cluster, sorted, in segments of a few."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from telemeter.store.classic import Histograms
from telemeter.store.records import (
    Key,
    Record,
    choose,
    count,
    first_key,
    first_name,
    locate,
    name_after,
    names,
    pack,
    time_of,
    unpack,
    write_size,
)

#: A segment with more records than this is cut in two. Updating a series copies its segment, so
#: they are small; each costs some memory of its own, so they are not tiny.
MOST_RECORDS: Final = 32
#: So is one that is larger than this, in bytes.
_MOST_BYTES: Final = 16384
#: What a segment costs beside its bytes: the head of the object, its place in the list, and what
#: the allocator rounds up, on average.
_SEGMENT_COST: Final = 33 + 8 + 12
#: What a cluster costs beside its segments.
_CLUSTER_COST: Final = 400

#: So many segments are looked at before others get their turn.
_AT_ONCE: Final = 64

#: The labels of a series, each as it is encoded, and its sample.
Chosen: TypeAlias = tuple[list[bytes], bytes]


class ClusterSeries:
    """The series of a cluster.

    Attributes:
        count: how many series there are.
        size: how many bytes they take, roughly.
        last: when the cluster last sent, in seconds.
        histograms: those of which there are the classic series; None: there never was any.
    """

    __slots__ = ("_segments", "_version", "count", "histograms", "last", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = _CLUSTER_COST
        self.last = 0.0
        self.histograms: Histograms | None = None
        self._segments: list[bytes] = []
        self._version = 0

    def append(self, records: list[Record]) -> None:
        """Add series whose keys are greater than all that are there, sorted."""
        for at in range(0, len(records), MOST_RECORDS):
            some = records[at : at + MOST_RECORDS]
            self._put(len(self._segments), len(self._segments), _cut(some))
        self.count += len(records)

    def update(self, record: Record) -> bool:
        """Bring a series up to date that is there; returns False if it is not there."""
        place = self._find(record)
        if place is None:
            return False
        index, _, sample, end = place
        segment = self._segments[index]
        tail = record[2]
        if time_of(segment[sample:end]) <= time_of(tail):
            self._replace(index, segment[:sample] + tail + segment[end:])
        return True

    def insert(self, record: Record) -> None:
        """Add a series that is not there."""
        name, labels, tail = record
        self.count += 1
        if not self._segments:
            self._put(0, 0, [pack([record])])
            return
        index = self._index(record)
        segment = self._segments[index]
        at, _, _ = locate(segment, name, labels)
        encoded = b"".join((write_size(len(name)), name, write_size(len(labels)), labels, tail))
        self._replace(index, segment[:at] + encoded + segment[at:])

    def remove(self, record: Record) -> bool:
        """Remove a series, unless it has a newer sample than this; returns whether it was there."""
        place = self._find(record)
        if place is None:
            return False
        index, start, sample, end = place
        segment = self._segments[index]
        if time_of(segment[sample:end]) > time_of(record[2]):
            return False
        self.count -= 1
        self._replace(index, segment[:start] + segment[end:])
        return True

    def become(self, key: Key, bounds: bytes | None) -> bytes | None:
        """Remember what a series came to be.

        Args:
            key: the series.
            bounds: of the custom buckets of the histogram that it is; None: it is no such one.

        Returns:
            The bounds that it had.
        """
        if self.histograms is None:
            if bounds is None:
                return None
            self.histograms = Histograms()
        self.size -= self.histograms.size
        old = self.histograms.replace(key, bounds)
        self.size += self.histograms.size
        return old

    def forget(self) -> None:
        """Forget all histograms, if they would have far more series than there are."""
        if self.histograms is not None and self.histograms.series > 2 * self.count:
            self.size -= self.histograms.size
            self.histograms = None

    def has(self, name: bytes, labels: bytes) -> bool:
        """Return whether a series is there."""
        return self._find((name, labels, b"")) is not None

    def names(self) -> Iterator[list[bytes]]:
        """Return the metric names, sorted, a few at a time; some come again."""
        at = 0
        while at < len(self._segments):
            found: list[bytes] = []
            for segment in self._segments[at : at + _AT_ONCE]:
                found += names(segment)
            yield found
            at += _AT_ONCE

    def first_name(self) -> bytes | None:
        """Return the first metric name."""
        return first_name(self._segments[0]) if self._segments else None

    def name_after(self, name: bytes) -> bytes | None:
        """Return the first metric name after another."""
        index = bisect_right(self._segments, name, key=first_name)
        if index:
            found = name_after(self._segments[index - 1], name)
            if found is not None:
                return found
        return first_name(self._segments[index]) if index < len(self._segments) else None

    def walk(self, name: bytes, passes: Callable[[list[bytes]], bool]) -> Iterator[list[Chosen]]:
        """Return the series of a metric name, sorted, a few at a time.

        The series may change in between: then what comes later is what there is then.

        Args:
            name: the metric name.
            passes: decides on a series by its labels.
        """
        after = b""
        index = max(0, bisect_left(self._segments, name, key=first_name) - 1)
        version = self._version
        while index < len(self._segments):
            segment = self._segments[index]
            if first_name(segment) > name:
                return
            found, after = choose(segment, name, after, passes)
            yield found
            if version != self._version:
                version = self._version
                place = bisect_right(self._segments, (name, after), key=first_key)
                index = max(0, place - 1)
            else:
                index += 1

    def _index(self, record: Record) -> int:
        """Return the segment in which a series belongs."""
        key = record[0], record[1]
        return max(0, bisect_right(self._segments, key, key=first_key) - 1)

    def _find(self, record: Record) -> tuple[int, int, int, int] | None:
        if not self._segments:
            return None
        index = self._index(record)
        start, sample, end = locate(self._segments[index], record[0], record[1])
        return None if start == end else (index, start, sample, end)

    def _replace(self, index: int, segment: bytes) -> None:
        if not segment:
            self._put(index, index + 1, [])
        elif len(segment) > _MOST_BYTES or (
            len(segment) > len(self._segments[index]) and count(segment) > MOST_RECORDS
        ):
            records = unpack(segment)
            middle = len(records) // 2
            halves = [records[:middle], records[middle:]]
            self._put(index, index + 1, [pack(half) for half in halves if half])
        else:
            self.size += len(segment) - len(self._segments[index])
            self._segments[index] = segment

    def _put(self, start: int, end: int, segments: list[bytes]) -> None:
        self.size -= sum(len(segment) + _SEGMENT_COST for segment in self._segments[start:end])
        self.size += sum(len(segment) + _SEGMENT_COST for segment in segments)
        self._segments[start:end] = segments
        self._version += 1


def _cut(records: list[Record]) -> list[bytes]:
    """Return the segments of sorted records: one, unless they are large."""
    segment = pack(records)
    if len(segment) <= _MOST_BYTES or len(records) == 1:
        return [segment]
    middle = len(records) // 2
    return _cut(records[:middle]) + _cut(records[middle:])
