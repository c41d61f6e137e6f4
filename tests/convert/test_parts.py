"""Parts of a remote-write request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.convert.engine import WriteConverter
from telemeter.convert.parts import count_series, ended, one_of_each, split
from telemeter.convert.sieve import WriteRules
from telemeter.samples.errors import BadInputError
from telemeter.samples.proto.remote_pb2 import WriteRequest
from tests.samples.build import STALE_NAN, bits


def request(*names: str, at: int = 1000) -> WriteRequest:
    request = WriteRequest()
    for name in names:
        series = request.timeseries.add()
        series.labels.add(name="__name__", value=name)
        series.labels.add(name="_id", value="cluster")
        series.samples.add(value=1.5, timestamp=at)
    return request


def names(payload: bytes) -> list[str]:
    return [series.labels[0].value for series in WriteRequest.FromString(payload).timeseries]


@given(st.lists(st.text("ab", min_size=1, max_size=300), max_size=20), st.integers(1, 25))
def test_the_parts_are_the_whole(found: list[str], parts: int) -> None:
    payload = request(*found).SerializeToString()
    assert count_series(payload) == len(found)
    pieces = split(payload, parts)
    assert b"".join(pieces) == payload
    assert len(pieces) == min(parts, len(found))
    sizes = [count_series(piece) for piece in pieces]
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(st.integers(0, 40), st.integers(1, 20))
def test_some_of_the_series(count: int, samples: int) -> None:
    payload = request(*(f"m{number}" for number in range(count))).SerializeToString()
    picked = [name for piece in one_of_each(payload, samples) for name in names(piece)]
    assert len(picked) == len(set(picked)) == min(count, samples)
    assert picked == sorted(picked, key=lambda name: int(name[1:]))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x12\x00",  # another field
        b"\x0a\x05abc",  # cut off
        b"\x0a",  # no length
        b"\x0a" + b"\xff" * 9 + b"\x01",  # a length without end
    ],
)
def test_what_is_no_request(payload: bytes) -> None:
    for read in (count_series, split, lambda payload: one_of_each(payload, 3)):
        with pytest.raises(BadInputError):
            read(payload)


@given(st.binary(max_size=100))
def test_any_bytes(payload: bytes) -> None:
    try:
        pieces = split(payload, 3)
    except BadInputError:
        return
    assert b"".join(pieces) == payload


def test_the_end_of_series() -> None:
    found = request("up", "down")
    native = found.timeseries.add()
    native.labels.add(name="__name__", value="native")
    native.labels.add(name="_id", value="cluster")
    native.histograms.add(count_int=3, sum=2.0, schema=1, timestamp=1000)
    payload = ended(found.SerializeToString(), 5000)
    up, down, last = WriteRequest.FromString(payload).timeseries
    for series in (up, down):
        assert [(bits(s.value), s.timestamp) for s in series.samples] == [(bits(STALE_NAN), 5000)]
    assert (bits(last.histograms[0].sum), last.histograms[0].timestamp) == (bits(STALE_NAN), 5000)
    assert names(payload) == ["up", "down", "native"]
    # A server lets them pass.
    assert WriteConverter(WriteRules()).convert(payload, 1, "cluster").series == 3
