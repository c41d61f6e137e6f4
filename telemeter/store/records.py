# cython: language_level=3, annotation_typing=False, wraparound=False
"""Series as the embedded store keeps them: encoded, sorted, a few in each block of bytes.

A record is one series with its newest sample:

    size of the metric name, metric name
    size of the other labels, the other labels as a TimeSeries of remote write holds them
    size of the sample * 2, + 1 if it is a native histogram; the sample

Sizes are varints. A number is 16 bytes, its value and its time; a native histogram is its time and
then the message of remote write. The time is in milliseconds since the epoch. Everything is little
endian. A segment is several records, sorted by key: the metric name and the other labels.

Where there is a C compiler this module is compiled (records.pxd has the types); it is the
same code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from telemeter.samples.errors import BadInputError
from telemeter.samples.proto import remote_pb2
from telemeter.samples.wire import read_varint, write_varint

#: What tells a series from all others: the metric name, and the other labels, encoded.
Key: TypeAlias = tuple[bytes, bytes]
#: A key, and a sample with its size, as they are in a record.
Record: TypeAlias = tuple[bytes, bytes, bytes]

_NAME_LABEL: Final = b"\x0a\x08__name__\x12"
_STALE: Final = struct.pack("<Q", 0x7FF0000000000002)
_STALE_SUM: Final = b"\x19" + _STALE
_SCALAR: Final = b"\x20"  # the size of a number: 16 bytes
_TIME: Final = struct.Struct("<q")
_ZERO: Final = bytes(8)
#: Sizes have up to five bytes.
_MOST_BITS: Final = 35
_LOWEST: Final = -1 << 63


def read_series(payload: bytes, at: int, most: int) -> tuple[list[Record], int]:
    """Read series of an encoded `prometheus.WriteRequest`.

    Args:
        payload: the request.
        at: where to begin.
        most: how many series to read at the most.

    Returns:
        Of each series its newest sample; and where the next series begins. Series without a sample
        or a name are left out.

    Raises:
        BadInputError: this is no such request.
    """
    records: list[Record] = []
    end = len(payload)
    while at < end and most > 0:
        tag = payload[at]
        if tag != 0x0A:
            at = _skip(payload, at, end)
            continue
        size, at = read_size(payload, at + 1, end)
        record = _read_one(payload, at, at + size)
        if record is not None:
            records.append(record)
        at += size
        most -= 1
    return records, at


def _read_one(data: bytes, at: int, end: int) -> Record | None:
    name = b""
    before = b""  # the labels in front of the name
    labels = at
    labels_end = at
    tail = b""
    newest = _LOWEST - 1
    while at < end:
        tag = data[at]
        if tag == 0x0A:
            start = at
            size, at = read_size(data, at + 1, end)
            if data[at : at + 11] == _NAME_LABEL:
                name = _value_of(data[at : at + size])
                before = data[labels:start]
                labels = at + size
            at += size
            labels_end = at
        elif tag == 0x12 or tag == 0x22:
            size, at = read_size(data, at + 1, end)
            message = data[at : at + size]
            at += size
            when, sample = _read_sample(message) if tag == 0x12 else _read_histogram(message)
            if when >= newest:
                newest, tail = when, sample
        else:
            at = _skip(data, at, end)
    if not name or not tail:
        return None
    return name, before + data[labels:labels_end], tail


def _value_of(label: bytes) -> bytes:
    """Return the metric name in the label that holds it."""
    size, at = read_size(label, 11, len(label))
    return label[at : at + size]


def _read_sample(message: bytes) -> tuple[int, bytes]:
    value = _ZERO
    when = 0
    at = 0
    end = len(message)
    while at < end:
        tag = message[at]
        if tag == 0x09 and end - at >= 9:
            value = message[at + 1 : at + 9]
            at += 9
        elif tag == 0x10:
            when, at = read_varint(message, at + 1, end)
            when = _signed(when)
        else:
            at = _skip(message, at, end)
    return when, _SCALAR + value + _TIME.pack(when)


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >= 1 << 63 else number


def _read_histogram(message: bytes) -> tuple[int, bytes]:
    when = remote_pb2.Histogram.FromString(message).timestamp
    return when, write_varint((8 + len(message)) * 2 + 1) + _TIME.pack(when) + message


def read_size(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the size at a position, and the position behind it; raises `BadInputError`."""
    size = 0
    shift = 0
    while at < end and shift < _MOST_BITS:
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            if size > end - at:
                break
            return size, at
        shift += 7
    raise BadInputError("a field of the request reaches beyond its end")


def _skip(data: bytes, at: int, end: int) -> int:
    """Return the position behind a field that is not for the store."""
    tag, at = read_varint(data, at, end)
    kind = tag & 7
    if kind == 2:
        size, at = read_size(data, at, end)
        return at + size
    if kind == 0:
        return read_varint(data, at, end)[1]
    size = 8 if kind == 1 else 4
    if kind not in (1, 5) or size > end - at:
        raise BadInputError("a field of the request is of an unknown kind")
    return at + size


def is_stale(tail: bytes) -> bool:
    """Return whether a sample is the mark that a series has ended."""
    if tail[0] & 1:
        return _STALE_SUM in tail and _is_stale_histogram(tail)
    return tail[1:9] == _STALE


def _is_stale_histogram(tail: bytes) -> bool:
    total: float = histogram_of(tail).sum
    return struct.pack("<d", total) == _STALE


def time_of(tail: bytes) -> int:
    """Return the time of a sample."""
    if tail[0] == 0x20:
        at = 9
    else:
        _, at = read_varint(tail, 0, len(tail))
    when: int = _TIME.unpack_from(tail, at)[0]
    return when


def histogram_of(tail: bytes) -> remote_pb2.Histogram:
    """Return the native histogram that a sample is."""
    _, at = read_varint(tail, 0, len(tail))
    return remote_pb2.Histogram.FromString(tail[at + 8 :])


# --- segments -------------------------------------------------------------------------------------


def pack(records: Sequence[Record]) -> bytes:
    """Return the segment of sorted records."""
    parts: list[bytes] = []
    for name, labels, tail in records:
        parts.append(write_size(len(name)))
        parts.append(name)
        parts.append(write_size(len(labels)))
        parts.append(labels)
        parts.append(tail)
    return b"".join(parts)


def write_size(size: int) -> bytes:
    """Return a size as a varint."""
    return bytes((size,)) if size < 0x80 else write_varint(size)


def unpack(segment: bytes) -> list[Record]:
    """Return the records of a segment."""
    records: list[Record] = []
    at = 0
    end = len(segment)
    while at < end:
        size, at = read_size(segment, at, end)
        name = segment[at : at + size]
        at += size
        size, at = read_size(segment, at, end)
        labels = segment[at : at + size]
        at += size
        size, behind = read_size_of_sample(segment, at, end)
        records.append((name, labels, segment[at : behind + size]))
        at = behind + size
    return records


def read_size_of_sample(segment: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the size of a sample, and where it begins."""
    if segment[at] == 0x20:
        return 16, at + 1
    size, at = read_varint(segment, at, end)
    return size >> 1, at


def first_key(segment: bytes) -> Key:
    """Return the key of the first record."""
    end = len(segment)
    size, at = read_size(segment, 0, end)
    name = segment[at : at + size]
    at += size
    size, at = read_size(segment, at, end)
    return name, segment[at : at + size]


def first_name(segment: bytes) -> bytes:
    """Return the metric name of the first record."""
    size, at = read_size(segment, 0, len(segment))
    return segment[at : at + size]


def names(segment: bytes) -> list[bytes]:
    """Return the metric names in a segment, sorted."""
    found: list[bytes] = []
    last = b""
    at = 0
    end = len(segment)
    while at < end:
        size, at = read_size(segment, at, end)
        name = segment[at : at + size]
        at += size
        size, at = read_size(segment, at, end)
        size, at = read_size_of_sample(segment, at + size, end)
        at += size
        if name != last:
            found.append(name)
            last = name
    return found


def name_after(segment: bytes, name: bytes) -> bytes | None:
    """Return the first metric name in a segment that comes after a name, if there is one."""
    at = 0
    end = len(segment)
    while at < end:
        size, at = read_size(segment, at, end)
        if segment[at : at + size] > name:
            return segment[at : at + size]
        at += size
        size, at = read_size(segment, at, end)
        size, at = read_size_of_sample(segment, at + size, end)
        at += size
    return None


def locate(segment: bytes, name: bytes, labels: bytes) -> tuple[int, int, int]:
    """Find the record with a key, or where it belongs.

    Returns:
        Where the record begins, where its sample (with its size) begins, and where it ends; all
        three are the place for it when it is not there.
    """
    at = 0
    end = len(segment)
    while at < end:
        start = at
        size, at = read_size(segment, at, end)
        other = segment[at : at + size]
        at += size
        size, at = read_size(segment, at, end)
        if other >= name:
            if other > name:
                return start, start, start
            other = segment[at : at + size]
            if other >= labels:
                if other > labels:
                    return start, start, start
                at += size
                size, behind = read_size_of_sample(segment, at, end)
                return start, at, behind + size
        size, at = read_size_of_sample(segment, at + size, end)
        at += size
    return end, end, end


def count(segment: bytes) -> int:
    """Return how many records a segment has."""
    number = 0
    at = 0
    end = len(segment)
    while at < end:
        size, at = read_size(segment, at, end)
        size, at = read_size(segment, at + size, end)
        size, at = read_size_of_sample(segment, at + size, end)
        at += size
        number += 1
    return number


def choose(
    segment: bytes,
    name: bytes,
    after: bytes,
    passes: Callable[[list[bytes]], bool],
) -> tuple[list[tuple[list[bytes], bytes]], bytes]:
    """Return the series of a metric name in a segment.

    Args:
        segment: the segment.
        name: the metric name.
        after: only series with greater labels than this.
        passes: decides on a series by its labels, encoded.

    Returns:
        Of each series its labels, each encoded as a field of a series, and its sample; and the
        labels of the last series of that name, or `after`.
    """
    found: list[tuple[list[bytes], bytes]] = []
    at = 0
    end = len(segment)
    while at < end:
        size, at = read_size(segment, at, end)
        other = segment[at : at + size]
        at += size
        size, at = read_size(segment, at, end)
        start = at
        stop = at + size
        size, at = read_size_of_sample(segment, stop, end)
        at += size
        if other < name:
            continue
        if other > name:
            break
        whole = segment[start:stop]
        if whole <= after and after:
            continue
        after = whole
        labels = split_labels(segment, start, stop)
        if passes(labels):
            found.append((labels, segment[stop:at]))
    return found, after


def split_labels(segment: bytes, at: int, end: int) -> list[bytes]:
    """Each label between two positions."""
    labels: list[bytes] = []
    while at < end:
        start = at
        size, at = read_size(segment, at + 1, end)
        at += size
        labels.append(segment[start:at])
    return labels
