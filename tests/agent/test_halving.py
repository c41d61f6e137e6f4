"""What becomes of a request that is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.agent.halving import REFUSALS, SAMPLES, Halving
from telemeter.samples.errors import BadInputError
from telemeter.samples.proto.remote_pb2 import WriteRequest


def request(count: int) -> bytes:
    found = WriteRequest()
    for number in range(count):
        series = found.timeseries.add()
        series.labels.add(name="__name__", value=str(number))
        series.samples.add(value=1.0, timestamp=1000)
    return found.SerializeToString()


def numbers(part: bytes) -> list[int]:
    return [int(series.labels[0].value) for series in WriteRequest.FromString(part).timeseries]


def send_all(halving: Halving, status_of: Callable[[list[int]], int]) -> tuple[list[int], int]:
    """What a receiver accepts, and how many requests that takes."""
    accepted: list[int] = []
    requests = 0
    while part := halving.part:
        requests += 1
        status = status_of(numbers(part))
        if status == 200:
            accepted += numbers(part)
            halving.accepted()
        else:
            halving.was_refused(status, f"status {status}")
    return accepted, requests


@given(st.integers(0, 70), st.sets(st.integers(0, 69)), st.sampled_from(sorted(REFUSALS)))
def test_only_what_is_bad_is_refused(count: int, bad: set[int], status: int) -> None:
    bad = {number for number in bad if number < count}
    halving = Halving(request(count))
    accepted, requests = send_all(halving, lambda part: status if bad & set(part) else 200)
    assert accepted == [number for number in range(count) if number not in bad]
    assert halving.delivered == len(accepted)
    assert halving.refused.total() == len(bad)
    assert set(halving.refused) <= {status}
    assert requests <= max(1, 2 * count)
    if len(bad) == 1:
        assert requests <= 2 * 7 + 1  # 70 series are halved 7 times


def test_a_limit_of_size_is_learned() -> None:
    halving = Halving(request(100))
    accepted, _ = send_all(halving, lambda part: 413 if len(part) > 30 else 200)
    assert accepted == list(range(100))
    assert halving.most_series == 25
    again = Halving(request(100), most_series=halving.most_series)
    accepted, requests = send_all(again, lambda part: 413 if len(part) > 30 else 200)
    assert (accepted, requests) == (list(range(100)), 4)
    assert not again.is_halved


def test_one_series_that_is_too_large() -> None:
    halving = Halving(request(1))
    assert send_all(halving, lambda _: 413) == ([], 1)
    assert halving.refused == {413: 1}


def test_reasons() -> None:
    halving = Halving(request(2))
    send_all(halving, lambda part: 400 if len(part) > 1 else 409)
    assert (halving.refused, halving.reason) == ({409: 2}, "status 409")


def test_what_follows_a_hopeless_request_is_tried_by_samples() -> None:
    first = Halving(request(200))
    _, requests = send_all(first, lambda _: 400)
    assert first.is_hopeless
    assert requests == 399
    second = Halving(request(200), hopeless=first.is_hopeless)
    assert send_all(second, lambda _: 400) == ([], 1 + SAMPLES)
    assert second.refused == {400: 200}
    assert second.is_hopeless


def test_samples_that_are_accepted_have_the_rest_halved() -> None:
    halving = Halving(request(200), hopeless=True)
    good = {13, 150}
    sampled = 200 * 12 // SAMPLES
    assert sampled == 150
    accepted, _ = send_all(halving, lambda part: 200 if set(part) <= good else 400)
    assert set(accepted) == good  # that which was a sample came twice, which does no harm
    assert halving.delivered == 2
    assert halving.refused == {400: 198}
    assert not halving.is_hopeless


def test_a_good_request_after_a_hopeless_one() -> None:
    halving = Halving(request(200), hopeless=True)
    assert send_all(halving, lambda _: 200)[1] == 1
    assert not halving.is_hopeless


def test_a_few_series_are_never_hopeless() -> None:
    halving = Halving(request(SAMPLES))
    send_all(halving, lambda _: 400)
    assert halving.refused.total() == SAMPLES
    assert not halving.is_hopeless


def test_nothing() -> None:
    halving = Halving(b"")
    assert halving.part == b""
    assert not halving.is_hopeless


def test_what_is_no_request() -> None:
    with pytest.raises(BadInputError):
        Halving(b"nonsense")
