"""The classic series that came of a histogram with custom buckets: they end when it does.

Before it is stored such a histogram becomes the classic one that it is. Its origin comes with it:
a series with its own labels, and a histogram that says no more than the time and the bounds. Later
it may have other bounds, become something else, or end; then series of it are left over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from telemeter.samples.histogram import bound_text
from telemeter.samples.proto import remote_pb2
from telemeter.samples.series import CUSTOM_BUCKETS
from telemeter.store.records import Key, histogram_of, is_stale

_CUSTOM: Final = b"\x20" + bytes((-2 * CUSTOM_BUCKETS - 1,))
_BOUND: Final = struct.Struct("<d")
_LE: Final = b"\x0a\x02le\x12"
#: What a histogram costs: its number, and its place in the dictionary.
_COST: Final = 104
#: Bounds of more bytes than this are not shared by the histograms that have the same.
_LONG: Final = 1024
_SCALAR: Final = b"\x20"
_STALE_AT: Final = struct.Struct("<cQq")
_STALE: Final = 0x7FF0000000000002


class Origin(NamedTuple):
    """The state of a histogram at a time.

    Attributes:
        when: the time, in milliseconds since the epoch.
        bounds: of its buckets, each as 8 bytes; None: it is none with custom buckets, or has ended.
    """

    when: int
    bounds: bytes | None


def read_origin(tail: bytes) -> Origin | None:
    """Return the origin that a native histogram is; None: it is a sample of its own."""
    if _CUSTOM not in tail:
        return None
    histogram = histogram_of(tail)
    if histogram.schema != CUSTOM_BUCKETS:
        return None
    if is_stale(tail):
        return Origin(histogram.timestamp, None)
    bounds = histogram.custom_values
    packed = struct.pack(f"<{len(bounds)}d", *bounds)
    return Origin(histogram.timestamp, _shared(packed) if len(packed) <= _LONG else packed)


@lru_cache(1024)
def _shared(bounds: bytes) -> bytes:
    return bounds


class Histograms:
    """The histograms with custom buckets of one cluster, and their bounds.

    They are remembered by a hash of their labels. Should two have the same, series may stay for
    longer than they should; no other series is lost.

    Attributes:
        series: how many classic series there are of them, if all were taken.
        size: how many bytes this takes, roughly.
    """

    __slots__ = ("_bounds", "series", "size")

    def __init__(self) -> None:
        self.size = 0
        self.series = 0
        self._bounds: dict[int, bytes] = {}

    def has(self, key: Key) -> bool:
        """Return whether a series is that of such a histogram."""
        return hash(key) in self._bounds

    def replace(self, key: Key, bounds: bytes | None) -> bytes | None:
        """Remember the bounds of a histogram, or forget it; returns the bounds that it had."""
        number = hash(key)
        old = self._bounds.pop(number, None)
        if old is not None:
            self._count(old, -1)
        if bounds is not None:
            self._bounds[number] = bounds
            self._count(bounds, 1)
        return old

    def _count(self, bounds: bytes, sign: int) -> None:
        self.series += sign * (len(bounds) // _BOUND.size + 3)
        self.size += sign * (_COST + (len(bounds) if len(bounds) > _LONG else 0))


def left_over(key: Key, old: bytes, new: bytes | None) -> Iterator[Key]:
    """Return the classic series that are not there any longer.

    Args:
        key: the series of the histogram.
        old: the bounds that it had.
        new: those that it has; None: it has ended.
    """
    if old == new:
        return
    name, labels = key
    parts = remote_pb2.TimeSeries.FromString(labels).labels
    before = _encoded([label for label in parts if label.name < "le"])
    after = _encoded([label for label in parts if label.name > "le"])
    for bound in _missing(old, new or b""):
        yield name + b"_bucket", before + _le(bound_text(bound)) + after
    if new is None:
        yield name + b"_bucket", before + _le("+Inf") + after
        yield name + b"_sum", labels
        yield name + b"_count", labels


def _missing(old: bytes, new: bytes) -> Iterator[float]:
    """Return the bounds that are not among the new ones; both increase."""
    others = _BOUND.iter_unpack(new)
    other = next(others, None)
    for bound in _BOUND.iter_unpack(old):
        while other is not None and other < bound:
            other = next(others, None)
        if other != bound:
            yield bound[0]


def _encoded(labels: list[remote_pb2.Label]) -> bytes:
    return remote_pb2.TimeSeries(labels=labels).SerializeToString()


def _le(text: str) -> bytes:
    # Numbers are short: each size is one byte.
    value = _LE + bytes((len(text),)) + text.encode()
    return b"\x0a" + bytes((len(value),)) + value


def stale_tail(when: int) -> bytes:
    """Return the sample that marks the end of a series."""
    return _STALE_AT.pack(_SCALAR, _STALE, when)
