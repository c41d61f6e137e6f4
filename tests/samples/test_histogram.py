from __future__ import annotations

from itertools import accumulate
from typing import Any, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from telemeter.samples.errors import BadInputError
from telemeter.samples.histogram import (
    check_histogram,
    classic_points,
    is_too_fine,
    make_coarser,
)
from telemeter.samples.proto import remote_pb2
from telemeter.samples.proto.write_v2_pb2 import BucketSpan, Histogram
from tests.convert.write_strategies import Histogram as PlainHistogram
from tests.convert.write_strategies import histograms, nonsense_histograms

from . import histogram_model
from .build import NORMAL_NAN, STALE_NAN, bits

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
    "the coarsest schema": Histogram(schema=-4),
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
    (Histogram(schema=-5), "schema -5 is coarser than the receivers of remote write 1.0 know"),
    (Histogram(schema=-9), "schema -9 is coarser than .* 1.0 know: expected -4 or more"),
    (Histogram(schema=-10), "schema -10 is not known: expected -4 to 52, or -53 for custom"),
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


def test_coarser_schemas_may_stay_in_2() -> None:
    for schema in (-9, -5):
        check_histogram(Histogram(schema=schema), is_kept=True)
    for schema in (-10, 53, -54):
        with pytest.raises(BadInputError, match="is not known"):
            check_histogram(Histogram(schema=schema), is_kept=True)


@given(nonsense_histograms, st.booleans())
def test_nonsense_of_either_version_works_or_is_refused(
    plain: PlainHistogram, is_kept: bool
) -> None:
    for kind in (remote_pb2.Histogram, Histogram):
        histogram = kind.FromString(plain.encode(1))
        try:
            check_histogram(histogram, is_kept=is_kept)
        except BadInputError as error:
            assert str(error)
        else:
            assert histogram.count_int == 0
            assert list(map(len, (histogram.positive_spans, histogram.positive_deltas))) == [0, 0]


# --- Custom buckets as a classic histogram --------------------------------------------------------


def classic(histogram: Histogram) -> list[tuple[str, str | None, float]]:
    check_histogram(histogram)
    return [tuple(point) for point in classic_points(histogram)]  # type: ignore[misc]


def test_the_classic_histogram() -> None:
    assert classic(custom(sum=7.5)) == [
        ("_bucket", "1.0", 1.0),
        ("_bucket", "2.0", 3.0),
        ("_bucket", "+Inf", 6.0),
        ("_sum", None, 7.5),
        ("_count", None, 6.0),
    ]


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"positive_spans": [span(2, 1)], "positive_deltas": [6]}, [0, 0, 6]),
        ({"positive_spans": [span(1, 1)], "positive_deltas": [6]}, [0, 6, 6]),
        (
            {"positive_spans": [span(0, 1), span(1, 1)], "positive_deltas": [4, -2]},
            [4, 4, 6],
        ),
        ({"positive_spans": [span(0, 0), span(1, 2)], "positive_deltas": [4, -2]}, [0, 4, 6]),
        ({"count_int": 0, "positive_spans": [], "positive_deltas": []}, [0, 0, 0]),
        # Observations of NaN are in no bucket but the last.
        ({"sum": NORMAL_NAN, "count_int": 9}, [1, 3, 9]),
        (
            {"count_int": 2**63, "positive_deltas": [0, 0, 2**63 - 1], "sum": NORMAL_NAN},
            [0, 0, 2.0**63],
        ),
    ],
)
def test_cumulative_buckets(fields: dict[str, Any], values: list[float]) -> None:
    points = classic(custom(**fields))
    assert [value for suffix, _, value in points if suffix == "_bucket"] == values
    assert points[-1][2] == values[-1]


def test_floats() -> None:
    points = classic(
        custom(count_float=2.75, positive_counts=[0.5, 0.25, 2.0], positive_deltas=[], sum=-1.0)
    )
    assert [value for _, _, value in points] == [0.5, 0.75, 2.75, -1.0, 2.75]


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        *((0.0, "0.0"), (-0.0, "0.0"), (1.0, "1.0"), (-1.0, "-1.0"), (0.1, "0.1"), (10.0, "10.0")),
        *((1e6, "1e+06"), (999999.0, "999999.0"), (1234567.0, "1.234567e+06"), (1e-5, "1e-05")),
        *((0.0001, "0.0001"), (1e21, "1e+21"), (5e-324, "5e-324"), (-INF, "-Inf")),
    ],
)
def test_bounds_are_written_as_prometheus_writes_them(bound: float, text: str) -> None:
    points = classic(Histogram(schema=CUSTOM, custom_values=[bound]))
    assert [le for _, le, _ in points] == [text, "+Inf", None, None]
    assert histogram_model.bound_text(bound) == text


@pytest.mark.parametrize("bounds", [[], [1.0, 2.0]])
def test_the_end_of_a_series_is_the_end_of_all(bounds: list[float]) -> None:
    points = classic(Histogram(schema=CUSTOM, custom_values=bounds, sum=STALE_NAN))
    assert len(points) == len(bounds) + 3
    assert {bits(value) for _, _, value in points} == {bits(STALE_NAN)}


@given(histograms(custom_ones=st.just(True)))
def test_any_classic_histogram(plain: PlainHistogram) -> None:
    assert histogram_model.is_custom(plain)
    found = classic(Histogram.FromString(plain.encode(2)))
    expected = histogram_model.points(plain)
    assert [(suffix, le) for suffix, le, _ in found] == list(expected)
    assert [bits(value) for _, _, value in found] == list(expected.values())


# --- Buckets that are too fine --------------------------------------------------------------------


def counts_by_bound(histogram: remote_pb2.Histogram, schema: int) -> dict[tuple[str, int], float]:
    """How many observations there are up to each bound of a schema, on either side.

    The bound with the index i is 2 ** (i * 2 ** -schema), so in a finer schema, of which the
    buckets have the counts, the same bound has the index i * 2 ** (fine - schema).
    """
    found: dict[tuple[str, int], float] = {}
    for side, spans, deltas, counts in (
        ("-", histogram.negative_spans, histogram.negative_deltas, histogram.negative_counts),
        ("+", histogram.positive_spans, histogram.positive_deltas, histogram.positive_counts),
    ):
        held = list(counts) if histogram.HasField("count_float") else list(accumulate(deltas))
        at = 0
        for each in spans:
            at += each.offset
            for _ in range(each.length):
                # Rounded up: the first bound of the coarse schema that is not below.
                index = -(-at // 2 ** (histogram.schema - schema))
                found[side, index] = found.get((side, index), 0) + held.pop(0)
                at += 1
        assert not held
    return {place: count for place, count in found.items() if count}


@given(histograms(st.integers(9, 52), st.just(False)))
def test_finer_buckets_become_the_finest_that_are_known(plain: PlainHistogram) -> None:
    assert not histogram_model.is_custom(plain)
    histogram = remote_pb2.Histogram.FromString(plain.encode(1))
    before = remote_pb2.Histogram.FromString(plain.encode(1))
    assert is_too_fine(histogram)
    make_coarser(histogram)
    assert histogram.schema == 8
    assert not is_too_fine(histogram)
    check_histogram(histogram)
    assert counts_by_bound(histogram, 8) == counts_by_bound(before, 8)
    for same in ("sum", "zero_threshold", "timestamp", "reset_hint"):
        assert bits(getattr(histogram, same)) == bits(getattr(before, same))
    for choice in ("count", "zero_count"):
        assert histogram.WhichOneof(choice) == before.WhichOneof(choice)


def test_spans_are_joined_and_gaps_stay() -> None:
    histogram = remote_pb2.Histogram(
        schema=10,
        count_int=10,
        positive_spans=[
            remote_pb2.BucketSpan(offset=-3, length=4),
            remote_pb2.BucketSpan(offset=0, length=1),
            remote_pb2.BucketSpan(offset=19, length=1),
        ],
        positive_deltas=[1, 0, 0, 0, 0, 4],
    )
    make_coarser(histogram)
    # Indexes -3 to 0 are the bucket 0, 1 is the bucket 1, and 21 the bucket 6.
    assert [(each.offset, each.length) for each in histogram.positive_spans] == [(0, 2), (4, 1)]
    assert list(histogram.positive_deltas) == [4, -3, 4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {
                "positive_spans": [remote_pb2.BucketSpan(offset=2**31 - 1)] * 3
                + [remote_pb2.BucketSpan(length=1)],
                "positive_deltas": [0],
                "schema": 9,
            },
            "where no number is",
        ),
        (
            {
                "positive_spans": [remote_pb2.BucketSpan(offset=1, length=2)],
                "positive_deltas": [2**63 - 1, 0],
                "count_int": 2**64 - 2,
                "schema": 20,
            },
            "more than 9223372036854775807 observations in a bucket",
        ),
    ],
)
def test_what_cannot_be_made_coarser(fields: dict[str, Any], message: str) -> None:
    histogram = remote_pb2.Histogram(**fields)
    check_histogram(histogram)
    with pytest.raises(BadInputError, match=message):
        make_coarser(histogram)


@given(histograms())
def test_whatever_is_valid_is_accepted_until_a_count_is_wrong(plain: PlainHistogram) -> None:
    histogram = Histogram.FromString(plain.encode(2))
    check_histogram(histogram)
    assume(histogram.WhichOneof("count") == "count_int" and histogram.sum == histogram.sum)
    histogram.count_int += 1
    with pytest.raises(BadInputError, match="observations, its count is"):
        check_histogram(histogram)
