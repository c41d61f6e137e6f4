"""One attempt of a cluster to send something, and how attempts travel between processes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from telemeter.metrics.errors import BadInputError

#: The most bytes that is kept of each text.
MAX_ID: Final = 255
MAX_REASON: Final = 200
MAX_AGENT: Final = 64
#: The most examples of dropped series, and the most bytes of each.
MAX_EXAMPLES: Final = 3
MAX_EXAMPLE: Final = 512
#: The most attempts that are encoded together.
MAX_BATCH: Final = 4096

_MAX_COUNT = 2**32 - 1
_MAX_DRIFT = 2**31 - 1
#: at, expires, seconds, status, path, flags, drift, four counts, and the lengths of what follows.
_HEAD: Final = struct.Struct("<ddfHBBi4IBBBB")
_LENGTH: Final = struct.Struct("<H")
#: The most bytes that an attempt is encoded in.
MAX_ENCODED: Final = (
    _HEAD.size + MAX_ID + MAX_REASON + MAX_AGENT + MAX_EXAMPLES * (_LENGTH.size + MAX_EXAMPLE)
)
_VERIFIED, _MEASURED, _DRIFT = 1, 2, 4


class Path(IntEnum):
    """Where an attempt was made."""

    UPLOAD = 0
    RECEIVE = 1
    AUTHORIZE = 2


@dataclass(slots=True)
class Attempt:
    """What a request came to. Texts are UTF-8, at most so long as the constants above say.

    Attributes:
        cluster: who made it; empty: nobody knows.
        at: when it ended, in seconds since the epoch.
        path: where.
        status: the status of the answer.
        seconds: how long it took.
        verified: whether the sender has proven to be that cluster.
        reason: why it was refused.
        agent: the sender's User-Agent.
        expires: until when its token holds, in seconds since the epoch; 0: not known.
        measured: whether it came as far as having its series counted, below.
        received, kept, dropped, duplicates: series that came, that are forwarded, that no rule of
            the whitelist allowed, that were there twice.
        drift: by how many seconds the newest timestamp lay ahead of the server's clock when the
            request began, negative: behind; None: not known.
        examples: dropped series, each the encoded labels of a `TimeSeries`.
    """

    cluster: bytes
    at: float
    path: Path
    status: int
    seconds: float = 0.0
    verified: bool = True
    reason: bytes = b""
    agent: bytes = b""
    expires: float = 0.0
    measured: bool = False
    received: int = 0
    kept: int = 0
    dropped: int = 0
    duplicates: int = 0
    drift: int | None = None
    examples: tuple[bytes, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether the sender was told so."""
        return self.status < 400

    @property
    def was_accepted(self) -> bool:
        """Whether it was in order, and there was something to forward."""
        return self.measured and self.kept > 0

    @property
    def failed(self) -> bool:
        """Whether it did not succeed, and not because of what was sent."""
        return self.status >= 499 or (self.status >= 400 and self.was_accepted)


def clip(text: str, size: int) -> bytes:
    """The beginning of a text, in at most so many bytes of whole UTF-8 characters."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= size else data[:size].decode("utf-8", "ignore").encode()


def clip_drift(seconds: int) -> int:
    """A drift, cut off at 68 years."""
    return max(-_MAX_DRIFT, min(_MAX_DRIFT, seconds))


def encode_attempts(attempts: Sequence[Attempt]) -> bytes:
    """Encode attempts for another process; numbers that are out of range are cut off at it.

    Raises:
        ValueError: more than `MAX_BATCH`.
    """
    if len(attempts) > MAX_BATCH:
        raise ValueError(f"{len(attempts)} attempts are more than {MAX_BATCH}")
    return b"".join(part for attempt in attempts for part in _parts(attempt))


def _parts(attempt: Attempt) -> Iterable[bytes]:
    cluster, reason, agent = attempt.cluster, attempt.reason[:MAX_REASON], attempt.agent[:MAX_AGENT]
    if len(cluster) > MAX_ID:
        cluster = b""
    examples = [each for each in attempt.examples if len(each) <= MAX_EXAMPLE][:MAX_EXAMPLES]
    counts = (
        attempt.received,
        attempt.kept,
        attempt.dropped,
        attempt.duplicates,
    )
    drift = attempt.drift
    flags = attempt.verified * _VERIFIED | attempt.measured * _MEASURED
    yield _HEAD.pack(
        attempt.at,
        attempt.expires,
        attempt.seconds,
        attempt.status,
        attempt.path,
        flags if drift is None else flags | _DRIFT,
        0 if drift is None else clip_drift(drift),
        *(min(count, _MAX_COUNT) for count in counts),
        len(cluster),
        len(reason),
        len(agent),
        len(examples),
    )
    yield from (cluster, reason, agent)
    for example in examples:
        yield _LENGTH.pack(len(example))
        yield example


def decode_attempts(data: bytes) -> list[Attempt]:
    """Decode what `encode_attempts` wrote.

    Raises:
        BadInputError: it did not write that.
    """
    attempts: list[Attempt] = []
    reader = _Reader(data)
    while reader.at < len(data):
        if len(attempts) >= MAX_BATCH:
            raise BadInputError(f"more than {MAX_BATCH} attempts")
        attempts.append(_decode_one(reader))
    return attempts


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int, limit: int) -> bytes:
        if size > limit or size > len(self.data) - self.at:
            raise BadInputError(f"an attempt is cut off, or has a text of more than {limit} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def example(self) -> bytes:
        (size,) = _LENGTH.unpack(self.take(_LENGTH.size, _LENGTH.size))
        return self.take(size, MAX_EXAMPLE)


def _decode_one(reader: _Reader) -> Attempt:
    fields = _HEAD.unpack(reader.take(_HEAD.size, _HEAD.size))
    at, expires, seconds, status, path, flags, drift, *counts, id_size = fields[:12]
    reason, agent, examples = fields[12:]
    if path not in Path.__members__.values() or examples > MAX_EXAMPLES:
        raise BadInputError("an attempt has a path or a number of examples that there is not")
    if not 100 <= status <= 999 or not all(abs(time) < 2**40 for time in (at, expires, seconds)):
        raise BadInputError("an attempt has a status or a time that there is not")
    attempt = Attempt(reader.take(id_size, MAX_ID), at, Path(path), status, seconds)
    attempt.verified, attempt.measured = bool(flags & _VERIFIED), bool(flags & _MEASURED)
    attempt.reason, attempt.agent = reader.take(reason, MAX_REASON), reader.take(agent, MAX_AGENT)
    attempt.expires = expires
    attempt.received, attempt.kept, attempt.dropped, attempt.duplicates = counts
    attempt.drift = drift if flags & _DRIFT else None
    attempt.examples = tuple(reader.example() for _ in range(examples))
    return attempt
