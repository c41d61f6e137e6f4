"""What is kept of a cluster's last attempts, in few bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from telemeter.fleet.attempt import MAX_REASON, Attempt, Path
from telemeter.metrics.proto import remote_pb2
from telemeter.metrics.selector import NAME

#: The most attempts that are kept of a cluster.
MAX_ATTEMPTS: Final = 8
#: at, status, path and whether measured, milliseconds, series (three counts), the reason's length.
_ENTRY: Final = struct.Struct("<IHBH3IB")
#: The most bytes that the newest attempt takes.
MAX_ENTRY: Final = _ENTRY.size + MAX_REASON
_MEASURED = 0x80
_EXAMPLE: Final = struct.Struct("<H")
_CUT = 0x8000


@dataclass(frozen=True, slots=True)
class Past:
    """An attempt as it is remembered; see `Attempt`."""

    at: int
    path: Path
    status: int
    seconds: float
    measured: bool
    received: int
    kept: int
    dropped: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A series that no rule allowed.

    Attributes:
        labels: its labels, `__name__` among them.
        is_cut: whether some are left out, because there was no room for them.
    """

    labels: Mapping[str, str]
    is_cut: bool


def add_attempt(trail: bytes, attempt: Attempt, room: int) -> bytes:
    """A trail with one more attempt; of the former ones, as many of the newest as fit.

    Args:
        trail: the trail until now; empty at first.
        attempt: what to add.
        room: how many bytes there are, `MAX_ENTRY` at least.
    """
    reason = attempt.reason[:MAX_REASON]
    entry = _ENTRY.pack(
        min(max(int(attempt.at), 0), 2**32 - 1),
        attempt.status,
        attempt.path | (attempt.measured * _MEASURED),
        min(max(int(attempt.seconds * 1000), 0), 0xFFFF),
        attempt.received,
        attempt.kept,
        attempt.dropped,
        len(reason),
    )
    room -= len(entry) + len(reason)
    end, size, head = 0, len(trail), _ENTRY.size
    for _ in range(MAX_ATTEMPTS - 1):
        following = end + head + (trail[end + head - 1] if end < size else 0)
        if end >= size or following > room:
            break
        end = following
    return entry + reason + trail[:end]


def read_trail(trail: bytes) -> Iterator[Past]:
    """The attempts of a trail, the newest first."""
    at = 0
    while at < len(trail):
        seen, status, path, milliseconds, received, kept, dropped, size = _ENTRY.unpack_from(
            trail, at
        )
        at += _ENTRY.size + size
        yield Past(
            seen,
            Path(path & ~_MEASURED),
            status,
            milliseconds / 1000,
            bool(path & _MEASURED),
            received,
            kept,
            dropped,
            trail[at - size : at].decode("utf-8", "replace"),
        )


def pack_examples(examples: tuple[bytes, ...], room: int) -> bytes:
    """As many dropped series as fit; of the first one, if it does not fit, as many labels as do."""
    packed = b""
    for example in examples:
        if len(packed) + _EXAMPLE.size + len(example) <= room:
            packed += _EXAMPLE.pack(len(example)) + example
    if examples and not packed:
        cut = _cut(examples[0], room - _EXAMPLE.size)
        if cut:
            packed = _EXAMPLE.pack(len(cut) | _CUT) + cut
    return packed


def _cut(example: bytes, room: int) -> bytes:
    """The metric's name and as many other labels as fit, encoded."""
    kept = remote_pb2.TimeSeries()
    labels = _labels_of(example)
    for name in sorted(labels, key=lambda name: (name != NAME, len(name) + len(labels[name]))):
        kept.labels.add(name=name, value=labels[name])
        if kept.ByteSize() > room:
            del kept.labels[-1]
            break
    return kept.SerializeToString()


def read_examples(packed: bytes) -> Iterator[Dropped]:
    """The series that `pack_examples` packed."""
    at = 0
    while at < len(packed):
        (head,) = _EXAMPLE.unpack_from(packed, at)
        size = head & ~_CUT
        at += _EXAMPLE.size + size
        yield Dropped(_labels_of(packed[at - size : at]), bool(head & _CUT))


def _labels_of(example: bytes) -> dict[str, str]:
    try:
        series = remote_pb2.TimeSeries.FromString(example)
    except DecodeError:
        return {}
    return {label.name: label.value for label in series.labels}
