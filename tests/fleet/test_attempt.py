"""Attempts on their way between processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.fleet.attempt import (
    MAX_AGENT,
    MAX_BATCH,
    MAX_ENCODED,
    MAX_EXAMPLE,
    MAX_EXAMPLES,
    MAX_ID,
    MAX_REASON,
    Attempt,
    Path,
    clip,
    decode_attempts,
    encode_attempts,
)
from telemeter.loop.clocks import Elapsed
from telemeter.samples.errors import BadInputError
from telemeter.server.workers.control import MAX_REPORT

COUNTS = st.integers(0, 2**32 - 1)
TIMES = st.floats(0, 2**39)
ATTEMPTS = st.builds(
    Attempt,
    cluster=st.binary(max_size=MAX_ID),
    at=TIMES,
    path=st.sampled_from(Path),
    status=st.integers(100, 599),
    seconds=st.floats(0, 1000, width=32),
    verified=st.booleans(),
    reason=st.binary(max_size=MAX_REASON),
    agent=st.binary(max_size=MAX_AGENT),
    expires=TIMES,
    measured=st.booleans(),
    received=COUNTS,
    kept=COUNTS,
    dropped=COUNTS,
    duplicates=COUNTS,
    drift=st.none() | st.integers(-(2**31) + 1, 2**31 - 1),
    examples=st.lists(st.binary(max_size=MAX_EXAMPLE), max_size=MAX_EXAMPLES).map(tuple),
)


@given(st.lists(ATTEMPTS, max_size=20))
def test_they_arrive_as_they_were(attempts: list[Attempt]) -> None:
    encoded = encode_attempts(attempts)
    assert decode_attempts(encoded) == attempts
    assert len(encoded) <= MAX_ENCODED * len(attempts)
    assert MAX_ENCODED <= MAX_REPORT  # each fits into a report


@given(st.binary(max_size=400))
def test_what_is_none_is_refused(data: bytes) -> None:
    try:
        attempts = decode_attempts(data)
    except BadInputError:
        return
    assert encode_attempts(attempts) is not None


@given(ATTEMPTS, st.data())
def test_what_is_cut_off_is_refused(attempt: Attempt, data: st.DataObject) -> None:
    encoded = encode_attempts([attempt])
    end = data.draw(st.integers(1, len(encoded) - 1))
    with pytest.raises(BadInputError):
        decode_attempts(encoded[:end])


def test_what_is_too_long_or_too_large_is_cut_off() -> None:
    attempt = Attempt(
        b"c" * (MAX_ID + 1),
        Elapsed(1.0),
        Path.UPLOAD,
        200,
        reason=b"r" * 1000,
        agent=b"a" * 1000,
        received=2**40,
        drift=-(2**40),
        examples=(b"x" * (MAX_EXAMPLE + 1), *[b"y"] * 5),
    )
    (decoded,) = decode_attempts(encode_attempts([attempt]))
    assert decoded.cluster == b""
    assert (len(decoded.reason), len(decoded.agent)) == (MAX_REASON, MAX_AGENT)
    assert decoded.received == 2**32 - 1
    assert decoded.drift == -(2**31) + 1
    assert decoded.examples == (b"y",) * MAX_EXAMPLES


def test_a_batch_has_a_limit() -> None:
    attempt = Attempt(b"c", Elapsed(1.0), Path.UPLOAD, 200)
    with pytest.raises(ValueError, match="more than"):
        encode_attempts([attempt] * (MAX_BATCH + 1))
    one = encode_attempts([attempt])
    with pytest.raises(BadInputError, match="more than"):
        decode_attempts(one * (MAX_BATCH + 1))


@given(st.text(), st.integers(0, 30))
def test_clipping_leaves_whole_characters(text: str, size: int) -> None:
    clipped = clip(text, size)
    assert len(clipped) <= size
    assert text.encode("utf-8", "replace").startswith(clipped)
    clipped.decode()
    assert size - len(clipped) < 4 or clipped == text.encode("utf-8", "replace")


@pytest.mark.parametrize(
    ("status", "kept", "failed"),
    [
        (200, 5, False),
        (400, 0, False),
        (400, 5, True),
        (429, 0, False),
        (502, 5, True),
        (503, 0, True),
    ],
)
def test_whose_fault_it_was(status: int, kept: int, failed: bool) -> None:
    attempt = Attempt(b"c", Elapsed(1.0), Path.UPLOAD, status, measured=kept > 0, kept=kept)
    assert attempt.failed is failed
    assert attempt.succeeded is (status < 400)
