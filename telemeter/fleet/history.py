"""The trail of a cluster: its last attempts, in few bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from telemeter.fleet.attempt import MAX_REASON, Attempt, Path
from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import NAME

#: The most attempts that are kept of a cluster.
MAX_ATTEMPTS: Final = 8
#: at, status, path and whether measured, milliseconds, series (three counts), the reason's length.
_ENTRY: Final = struct.Struct("<IHBH3IB")
#: The most bytes that the newest attempt takes, with their number.
MAX_ENTRY: Final = 1 + _ENTRY.size + MAX_REASON
_ONE: Final = b"\x01"
_COUNTS: Final = [bytes((count,)) for count in range(MAX_ATTEMPTS + 1)]
_MAX_TIME, _MAX_MILLISECONDS = 2**32 - 1, 0xFFFF
_MEASURED = 0x80
_PATH_AT: Final = 6  # in an entry
_PATHS: Final = frozenset(map(int, Path))
_EXAMPLE: Final = struct.Struct("<H")
_CUT = 0x8000


@dataclass(frozen=True, slots=True)
class Past:
    """An attempt as it is remembered; see `Attempt`.

    Attributes:
        at: when it was, in whole seconds; see `add_attempt`.
    """

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


def add_attempt(trail: bytes, attempt: Attempt, at: float, room: int) -> bytes:
    """Return a trail with one more attempt; of the former ones, as many of the newest as fit.

    A trail is the number of attempts in a byte, and then the attempts, the oldest first: so it is
    found quickly what has to go.

    Args:
        trail: the trail until now; empty at first.
        attempt: what to add.
        at: when it was, in seconds, 0 or more.
        room: how many bytes there are, `MAX_ENTRY` at least.
    """
    reason = attempt.reason[:MAX_REASON]
    milliseconds = int(attempt.seconds * 1000)
    entry = _ENTRY.pack(
        min(int(at), _MAX_TIME),
        attempt.status,
        attempt.path | _MEASURED if attempt.measured else attempt.path,
        min(milliseconds, _MAX_MILLISECONDS) if milliseconds > 0 else 0,
        attempt.received,
        attempt.kept,
        attempt.dropped,
        len(reason),
    )
    if not trail:
        return _ONE + entry + reason
    count = trail[0] + 1
    room -= len(entry) + len(reason)
    begin = 1
    while count > MAX_ATTEMPTS or len(trail) - begin >= room:
        begin += _ENTRY.size + trail[begin + _ENTRY.size - 1]
        count -= 1
    return _COUNTS[count] + trail[begin:] + entry + reason


def read_trail(trail: bytes) -> list[Past]:
    """Return the attempts of a trail, the newest first."""
    attempts = []
    at = 1
    while at < len(trail):
        attempts.append(_read_one(trail, at))
        at += _ENTRY.size + trail[at + _ENTRY.size - 1]
    attempts.reverse()
    return attempts


def is_trail(data: bytes) -> bool:
    """Return whether data that were kept elsewhere are a trail, and can be read as one."""
    if not data:
        return True
    at = 1
    for _ in range(min(data[0], MAX_ATTEMPTS)):
        head = data[at : at + _ENTRY.size]
        if len(head) < _ENTRY.size or head[_PATH_AT] & ~_MEASURED not in _PATHS:
            return False
        at += _ENTRY.size + head[-1]
    return 1 <= data[0] <= MAX_ATTEMPTS and at == len(data)


def are_examples(data: bytes) -> bool:
    """Return whether data that were kept elsewhere are packed examples, and can be read so."""
    at = 0
    while len(data) - at >= _EXAMPLE.size:
        (head,) = _EXAMPLE.unpack_from(data, at)
        at += _EXAMPLE.size + (head & ~_CUT)
    return at == len(data)


def last_reason(trail: bytes) -> str:
    """Why the last attempt of a trail was refused."""
    at, size = 1, 0
    while at < len(trail):
        size = trail[at + _ENTRY.size - 1]
        at += _ENTRY.size + size
    return trail[at - size : at].decode("utf-8", "replace")


def _read_one(trail: bytes, at: int) -> Past:
    seen, status, path, milliseconds, received, kept, dropped, size = _ENTRY.unpack_from(trail, at)
    at += _ENTRY.size
    return Past(
        seen,
        Path(path & ~_MEASURED),
        status,
        milliseconds / 1000,
        bool(path & _MEASURED),
        received,
        kept,
        dropped,
        trail[at : at + size].decode("utf-8", "replace"),
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
    """Return the metric's name and as many other labels as fit, encoded."""
    kept = remote_pb2.TimeSeries()
    labels = _labels_of(example)
    for name in sorted(labels, key=lambda name: (name != NAME, len(name) + len(labels[name]))):
        kept.labels.add(name=name, value=labels[name])
        if kept.ByteSize() > room:
            del kept.labels[-1]
            break
    return kept.SerializeToString()


def read_examples(packed: bytes) -> Iterator[Dropped]:
    """Return the series that `pack_examples` packed."""
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
