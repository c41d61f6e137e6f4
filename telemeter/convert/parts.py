"""Parts of a remote-write request of version 1.0, taken from its bytes.

The agent halves what a receiver refuses. An encoded `prometheus.WriteRequest` is nothing but its
fields one after the other, so that each run of whole fields is a request, too
(https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

from telemeter.samples.errors import BadInputError
from telemeter.samples.proto import remote_pb2

_SERIES_TAG: Final = 0x0A
#: What marks the end of a series: this NaN, and no other
#: (https://prometheus.io/docs/specs/prw/remote_write_spec/#stale-markers).
_STALE: Final = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
_MOST_LENGTH_BYTES: Final = 5


def count_series(payload: bytes) -> int:
    """Return how many series a request has; raises `BadInputError` if it holds anything else."""
    return len(_ends(payload))


def split(payload: bytes, parts: int = 2) -> list[bytes]:
    """Split a request into some of about as many series, in order.

    Args:
        payload: a `WriteRequest` that holds series and nothing else.
        parts: how many; there are fewer if it has fewer series.

    Raises:
        BadInputError: it holds anything else.
    """
    ends = _ends(payload)
    count = min(parts, len(ends))
    bounds = [0, *(ends[len(ends) * part // count - 1] for part in range(1, count + 1))]
    return [payload[start:end] for start, end in pairwise(bounds)]


def one_of_each(payload: bytes, samples: int) -> list[bytes]:
    """Return some series of a request, evenly spread, each as a request.

    Args:
        payload: a `WriteRequest` that holds series and nothing else.
        samples: how many; there are fewer if it has fewer series.

    Raises:
        BadInputError: it holds anything else.
    """
    starts = [0, *_ends(payload)]
    count = len(starts) - 1
    picked = {count * number // samples for number in range(samples)} if count else set()
    return [payload[starts[at] : starts[at + 1]] for at in sorted(picked)]


def _ends(payload: bytes) -> list[int]:
    """Return where each series ends."""
    ends = []
    at = 0
    while at < len(payload):
        if payload[at] != _SERIES_TAG:
            raise BadInputError("the request holds something else than series")
        length, at = _length(payload, at + 1)
        at += length
        if at > len(payload):
            raise BadInputError("a series is cut off")
        ends.append(at)
    return ends


def _length(payload: bytes, at: int) -> tuple[int, int]:
    """Return the length that stands somewhere, and where the next byte is."""
    length = 0
    for number, byte in enumerate(payload[at : at + _MOST_LENGTH_BYTES]):
        length |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return length, at + number + 1
    raise BadInputError("the length of a series is not valid")


def ended(payload: bytes, now_ms: int) -> bytes:
    """Return a request that says of each series in another that it has ended.

    Args:
        payload: a `WriteRequest`.
        now_ms: when they end, in milliseconds since the epoch.
    """
    request = remote_pb2.WriteRequest.FromString(payload)
    markers = remote_pb2.WriteRequest()
    for series in request.timeseries:
        marker = markers.timeseries.add(labels=series.labels)
        if series.histograms:
            marker.histograms.add(sum=_STALE, timestamp=now_ms)
        else:
            marker.samples.add(value=_STALE, timestamp=now_ms)
    return markers.SerializeToString()
