"""One attempt of a cluster to send something, and how attempts travel between processes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from telemeter.loop.clocks import NO_DATE, Elapsed, Wall
from telemeter.samples.errors import BadInputError

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
#: No time is further from 0, in seconds.
_MAX_TIME = 2**40
#: at, expires, seconds, status, path, flags, drift, four counts, and the lengths of what follows.
_HEAD: Final = struct.Struct("<ddfHBBi4IBBBB")
_LENGTH: Final = struct.Struct("<H")
#: The most bytes that an attempt is encoded in.
MAX_ENCODED: Final = (
    _HEAD.size + MAX_ID + MAX_REASON + MAX_AGENT + MAX_EXAMPLES * (_LENGTH.size + MAX_EXAMPLE)
)
_VERIFIED, _MEASURED, _DRIFT = 1, 2, 4


class Path(IntEnum):
    """The endpoint at which an attempt was made."""

    UPLOAD = 0
    RECEIVE = 1
    AUTHORIZE = 2


_PATHS: Final = tuple(Path)


@dataclass(slots=True)
class Attempt:
    """The result of a request. Texts are UTF-8, no longer than the constants above say.

    Attributes:
        cluster: who made it; empty: nobody knows.
        at: when it ended.
        path: where.
        status: the status of the answer.
        seconds: how long it took.
        verified: whether the sender has proven to be that cluster.
        reason: why it was refused.
        agent: the sender's User-Agent.
        expires: until when its token holds; 0: not known.
        measured: whether it came as far as having its series counted, below.
        received, kept, dropped, duplicates: series that came, that the rules let pass (whether
            or not the upstream took them), that no rule of the whitelist allowed, that were there
            twice.
        drift: by how many seconds the newest timestamp lay ahead of the server's clock when the
            request began, negative: behind; None: not known.
        examples: dropped series, each the encoded labels of a `TimeSeries`.
    """

    cluster: bytes
    at: Elapsed
    path: Path
    status: int
    seconds: float = 0.0
    verified: bool = True
    reason: bytes = b""
    agent: bytes = b""
    expires: Wall = NO_DATE
    measured: bool = False
    received: int = 0
    kept: int = 0
    dropped: int = 0
    duplicates: int = 0
    drift: int | None = None
    examples: tuple[bytes, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Return whether the sender was told so."""
        return self.status < 400

    @property
    def was_accepted(self) -> bool:
        """Return whether it was in order, and there was something to forward."""
        return self.measured and self.kept > 0

    @property
    def failed(self) -> bool:
        """Return whether it did not succeed, and not because of what was sent."""
        return self.status >= 499 or (self.status >= 400 and self.was_accepted)


def clip(text: str, size: int) -> bytes:
    """Return the beginning of a text, in at most so many bytes of whole UTF-8 characters."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= size else data[:size].decode("utf-8", "ignore").encode()


def clip_drift(seconds: int) -> int:
    """Return a drift, cut off at 68 years."""
    return max(-_MAX_DRIFT, min(_MAX_DRIFT, seconds))


def encode_attempts(attempts: Sequence[Attempt]) -> bytes:
    """Encode attempts for another process; numbers that are out of range are cut off at it.

    Raises:
        ValueError: more than `MAX_BATCH`.
    """
    if len(attempts) > MAX_BATCH:
        raise ValueError(f"{len(attempts)} attempts are more than {MAX_BATCH}")
    parts: list[bytes] = []
    for attempt in attempts:
        _encode_one(attempt, parts)
    return b"".join(parts)


def _encode_one(attempt: Attempt, parts: list[bytes]) -> None:
    cluster, reason, agent = attempt.cluster, attempt.reason[:MAX_REASON], attempt.agent[:MAX_AGENT]
    if len(cluster) > MAX_ID:
        cluster = b""
    examples = attempt.examples
    if examples:
        examples = tuple(each for each in examples if len(each) <= MAX_EXAMPLE)[:MAX_EXAMPLES]
    flags = (_VERIFIED if attempt.verified else 0) | (_MEASURED if attempt.measured else 0)
    drift = attempt.drift
    if drift is None:
        drift = 0
    else:
        flags |= _DRIFT
    counts: tuple[int, ...] = (attempt.received, attempt.kept, attempt.dropped, attempt.duplicates)
    if max(counts) > _MAX_COUNT or abs(drift) > _MAX_DRIFT:
        counts, drift = tuple(min(each, _MAX_COUNT) for each in counts), clip_drift(drift)
    head = _HEAD.pack(
        attempt.at,
        attempt.expires,
        attempt.seconds,
        attempt.status,
        attempt.path,
        flags,
        drift,
        *counts,
        len(cluster),
        len(reason),
        len(agent),
        len(examples),
    )
    parts += (head, cluster, reason, agent)
    for example in examples:
        parts += (_LENGTH.pack(len(example)), example)


def decode_attempts(data: bytes) -> list[Attempt]:
    """Decode what `encode_attempts` wrote.

    Raises:
        BadInputError: it did not write that.
    """
    attempts: list[Attempt] = []
    at = 0
    try:
        while at < len(data):
            if len(attempts) >= MAX_BATCH:
                raise BadInputError(f"more than {MAX_BATCH} attempts")
            attempt, at = _decode_one(data, at)
            attempts.append(attempt)
    except struct.error:
        raise BadInputError("an attempt is cut off") from None
    return attempts


def _decode_one(data: bytes, start: int) -> tuple[Attempt, int]:
    """Return the attempt at a position, and the position behind it."""
    fields = _HEAD.unpack_from(data, start)
    at, expires, seconds, status, path, flags, drift, received, kept, dropped, duplicates = fields[
        :11
    ]
    id_size, reason_size, agent_size, examples = fields[11:]
    if path >= len(_PATHS) or examples > MAX_EXAMPLES:
        raise BadInputError("an attempt has a path or a number of examples that there is not")
    if not (
        100 <= status <= 999
        and -_MAX_TIME < at < _MAX_TIME
        and -_MAX_TIME < expires < _MAX_TIME
        and -_MAX_TIME < seconds < _MAX_TIME
    ):
        raise BadInputError("an attempt has a status or a time that there is not")
    if reason_size > MAX_REASON or agent_size > MAX_AGENT:
        raise BadInputError("an attempt has a text that is too long")
    reason = start + _HEAD.size + id_size
    agent = reason + reason_size
    end = agent + agent_size
    if end > len(data):
        raise BadInputError("an attempt is cut off")
    attempt = Attempt(
        data[reason - id_size : reason],
        Elapsed(at),
        _PATHS[path],
        status,
        seconds,
        flags & _VERIFIED != 0,
        data[reason:agent],
        data[agent:end],
        Wall(expires),
        flags & _MEASURED != 0,
        received,
        kept,
        dropped,
        duplicates,
        drift if flags & _DRIFT else None,
    )
    if examples:
        attempt.examples, end = _decode_examples(data, end, examples)
    return attempt, end


def _decode_examples(data: bytes, at: int, count: int) -> tuple[tuple[bytes, ...], int]:
    found = []
    for _ in range(count):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + size
        if size > MAX_EXAMPLE or at > len(data):
            raise BadInputError("an example is cut off or too long")
        found.append(data[at - size : at])
    return tuple(found), at
