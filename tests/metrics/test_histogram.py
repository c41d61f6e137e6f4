from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import assume, given

from telemeter.metrics.errors import BadInputError
from telemeter.metrics.histogram import check_histogram
from telemeter.metrics.proto.write_v2_pb2 import BucketSpan, Histogram

from .build import STALE_NAN
from .write_strategies import Histogram as PlainHistogram
from .write_strategies import histograms

INF: Final = float("inf")
NAN: Final = float("nan")
CUSTOM: Final = -53


def span(offset: int, length: int) -> BucketSpan:
    return BucketSpan(offset=offset, length=length)


def custom(**fields: Any) -> Histogram:
    """A histogram with three buckets of its own: up to 1, up to 2, and above."""
    usual = {
        "schema": CUSTOM,
        "custom_values": [1.0, 2.0],
        "count_int": 6,
        "positive_spans": [span(0, 3)],
        "positive_deltas": [1, 1, 1],
    }
    return Histogram(**{**usual, **fields})


VALID: Final[dict[str, Histogram]] = {
    "without anything": Histogram(),
    "without observations": Histogram(count_int=0, zero_count_int=0),
    "the zero bucket alone": Histogram(count_int=3, zero_count_int=3, zero_threshold=1e-9),
    "all buckets": Histogram(
        count_int=27,
        zero_count_int=1,
        positive_spans=[span(0, 3), span(2, 2)],
        positive_deltas=[1, 2, 1, 3, 1],
        negative_spans=[span(0, 2)],
        negative_deltas=[1, 1],
        reset_hint=Histogram.RESET_HINT_GAUGE,
    ),
    "a first span below zero": Histogram(
        count_int=1, positive_spans=[span(-5, 1)], positive_deltas=[1]
    ),
    "spans without buckets": Histogram(positive_spans=[span(3, 0), span(0, 0)]),
    "empty buckets": Histogram(count_int=0, positive_spans=[span(0, 2)], positive_deltas=[0, 0]),
    "buckets that fall to nothing": Histogram(
        count_int=3, positive_spans=[span(0, 2)], positive_deltas=[3, -3]
    ),
    "as many observations as there can be": Histogram(
        count_int=2**64 - 1, zero_count_int=2**64 - 1
    ),
    "observations of NaN": Histogram(sum=NAN, count_int=5, zero_count_int=3),
    "all observations of NaN": Histogram(sum=NAN, count_int=5),
    "the end of a series": Histogram(sum=STALE_NAN, count_int=0),
    "a sum without bounds": Histogram(sum=-INF, count_int=1, zero_count_int=1),
    "floats": Histogram(
        count_float=2.75,
        zero_count_float=0.25,
        positive_spans=[span(0, 2)],
        positive_counts=[1.5, 0.0],
        negative_spans=[span(1, 1)],
        negative_counts=[1.0],
    ),
    "floats that need not add up": Histogram(
        count_float=7.0, positive_spans=[span(0, 1)], positive_counts=[0.1]
    ),
    "floats that are no numbers": Histogram(
        count_float=NAN, positive_spans=[span(0, 1)], positive_counts=[NAN]
    ),
    "floats without bounds": Histogram(
        count_float=INF, positive_spans=[span(0, 2)], positive_counts=[INF, INF]
    ),
    "the lowest schema": Histogram(schema=-9),
    "the highest schema": Histogram(schema=52),
    "custom buckets": custom(),
    "custom buckets without values": custom(
        custom_values=[], count_int=1, positive_spans=[span(0, 1)], positive_deltas=[1]
    ),
    "a custom bucket on its own": custom(
        count_int=1, positive_spans=[span(2, 1)], positive_deltas=[1]
    ),
    "custom buckets with gaps": custom(
        count_int=2, positive_spans=[span(0, 1), span(1, 1)], positive_deltas=[1, 0]
    ),
    "custom buckets without observations": custom(
        count_int=0, positive_spans=[], positive_deltas=[]
    ),
    "custom buckets from minus infinity": custom(custom_values=[-INF, 0.0]),
    "custom buckets of floats": custom(
        count_float=1.0, positive_counts=[0.5, 0.0, 0.5], positive_deltas=[]
    ),
    "custom buckets and an empty zero bucket": custom(zero_count_int=0),
}

_ODD_SPANS = "spans need {} buckets, it has {}"
_NEITHER = "neither a zero bucket nor negative buckets"

INVALID: Final[list[tuple[Histogram, str]]] = [
    # The schema.
    (Histogram(schema=-10), "schema -10 is not known"),
    (Histogram(schema=53), "schema 53 is not known"),
    (Histogram(schema=-52), "schema -52 is not known"),
    (Histogram(schema=-54), "schema -54 is not known"),
    (Histogram(schema=2**31 - 1), "schema 2147483647 is not known"),
    (Histogram(schema=0, custom_values=[1.0]), "an exponential schema has no custom values"),
    # Spans and buckets.
    (Histogram(positive_spans=[span(0, 1)]), "positive " + _ODD_SPANS.format(1, 0)),
    (Histogram(negative_spans=[span(0, 1)]), "negative " + _ODD_SPANS.format(1, 0)),
    (Histogram(positive_deltas=[0]), "positive " + _ODD_SPANS.format(0, 1)),
    (Histogram(negative_deltas=[0]), "negative " + _ODD_SPANS.format(0, 1)),
    (
        Histogram(positive_spans=[span(0, 1), span(1, 1)], positive_deltas=[0, 0, 0]),
        _ODD_SPANS.format(2, 3),
    ),
    (
        Histogram(positive_spans=[span(0, 2**32 - 1)] * 3, positive_deltas=[0]),
        _ODD_SPANS.format(3 * (2**32 - 1), 1),
    ),
    (
        Histogram(positive_spans=[span(0, 1), span(-1, 1)], positive_deltas=[0, 0]),
        "a positive span after the first has a negative offset",
    ),
    (
        Histogram(negative_spans=[span(0, 1), span(-1, 1)], negative_deltas=[0, 0]),
        "a negative span after the first has a negative offset",
    ),
    # Counts of integers in a histogram of floats count for nothing, and the other way round.
    (
        Histogram(count_float=1.0, positive_spans=[span(0, 1)], positive_deltas=[1]),
        _ODD_SPANS.format(1, 0),
    ),
    (
        Histogram(count_int=1, positive_spans=[span(0, 1)], positive_counts=[1.0]),
        _ODD_SPANS.format(1, 0),
    ),
    (Histogram(count_int=3, zero_count_float=3.0), "hold 0 observations, its count is 3"),
    # Counts below zero.
    (
        Histogram(positive_spans=[span(0, 1)], positive_deltas=[-1]),
        "a positive bucket has a negative count",
    ),
    (
        Histogram(count_int=1, negative_spans=[span(0, 3)], negative_deltas=[1, -2, 2]),
        "a negative bucket has a negative count",
    ),
    (
        Histogram(count_float=0.0, positive_spans=[span(0, 1)], positive_counts=[-0.5]),
        "a positive bucket has a negative count",
    ),
    (
        Histogram(count_float=0.0, negative_spans=[span(0, 1)], negative_counts=[-INF]),
        "a negative bucket has a negative count",
    ),
    (Histogram(count_float=-1.0), "its count or that of its zero bucket is negative"),
    (
        Histogram(count_float=1.0, zero_count_float=-1.0),
        "its count or that of its zero bucket is negative",
    ),
    # The sum of the buckets.
    (Histogram(count_int=99), "its buckets hold 0 observations, its count is 99"),
    (Histogram(zero_count_int=1), "its buckets hold 1 observations, its count is 0"),
    (
        Histogram(count_int=23, positive_spans=[span(0, 2)], positive_deltas=[1, 1]),
        "its buckets hold 3 observations, its count is 23",
    ),
    (
        Histogram(
            count_int=0, zero_count_int=2**64 - 1, negative_spans=[span(0, 1)], negative_deltas=[1]
        ),
        f"its buckets hold {2**64} observations, its count is 0",
    ),
    (
        Histogram(sum=NAN, count_int=2, zero_count_int=3),
        "its buckets hold 3 observations, its count is 2",
    ),
    (Histogram(sum=INF, count_int=2, zero_count_int=1), "hold 1 observations, its count is 2"),
    (custom(count_int=7), "its buckets hold 6 observations, its count is 7"),
    # Custom values.
    (custom(custom_values=[2.0, 1.0]), "custom values must increase"),
    (custom(custom_values=[1.0, 1.0]), "custom values must increase"),
    (custom(custom_values=[0.0, -0.0]), "custom values must increase"),
    (custom(custom_values=[1.0, NAN]), "custom values must increase"),
    (custom(custom_values=[NAN]), "custom values must increase"),
    (custom(custom_values=[1.0, INF]), r"custom values must not end with \+Inf"),
    (custom(custom_values=[INF]), r"custom values must not end with \+Inf"),
    # What custom buckets have not.
    (custom(zero_count_int=1), _NEITHER),
    (custom(zero_count_float=1.0), _NEITHER),
    (custom(zero_threshold=0.1), _NEITHER),
    (custom(zero_threshold=NAN), _NEITHER),
    (custom(negative_spans=[span(0, 0)]), _NEITHER),
    (custom(negative_deltas=[0]), _NEITHER),
    (custom(negative_counts=[0.0]), _NEITHER),
    # Where custom buckets can be.
    (
        custom(positive_spans=[span(-1, 3)]),
        "a span of custom buckets has a negative offset",
    ),
    (
        custom(positive_spans=[span(1, 2), span(-1, 1)]),
        "a span of custom buckets has a negative offset",
    ),
    (custom(positive_spans=[span(1, 3)]), "its spans reach bucket 4, it has 2 custom values"),
    (
        custom(positive_spans=[span(0, 2), span(1, 1)]),
        "its spans reach bucket 4, it has 2 custom values",
    ),
    (custom(custom_values=[]), "its spans reach bucket 3, it has 0 custom values"),
    (custom(positive_deltas=[1, 1]), "positive " + _ODD_SPANS.format(3, 2)),
]


@pytest.mark.parametrize("histogram", VALID.values(), ids=VALID)
def test_valid(histogram: Histogram) -> None:
    check_histogram(histogram)


@pytest.mark.parametrize(("histogram", "message"), INVALID)
def test_invalid(histogram: Histogram, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        check_histogram(histogram)


@given(histograms())
def test_whatever_is_valid_is_accepted_until_a_count_is_wrong(plain: PlainHistogram) -> None:
    histogram = Histogram.FromString(plain.encode(2))
    check_histogram(histogram)
    assume(histogram.WhichOneof("count") == "count_int" and histogram.sum == histogram.sum)
    histogram.count_int += 1
    with pytest.raises(BadInputError, match="observations, its count is"):
        check_histogram(histogram)
