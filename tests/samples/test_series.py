from __future__ import annotations

import pytest

from telemeter.samples.family import Metric
from telemeter.samples.proto.metrics_pb2 import (
    COUNTER,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    SUMMARY,
    UNTYPED,
    BucketSpan,
    Histogram,
    MetricType,
)
from telemeter.samples.proto.remote_pb2 import Histogram as NativeHistogram
from telemeter.samples.series import is_native, native_histogram, number_text, parts_of

from .build import FIELDS, NOW, STALE_NAN, bits, histogram, sample

INFINITY = float("inf")

Parts = list[tuple[str, tuple[str, str] | None, int]]


def parts(metric: Metric, kind: MetricType) -> Parts:
    return [(part.suffix, part.label, bits(part.value)) for part in parts_of(metric, kind)]


def part(suffix: str, value: float, **label: str) -> tuple[str, tuple[str, str] | None, int]:
    return suffix, next(iter(label.items()), None), bits(value)


@pytest.mark.parametrize("kind", [COUNTER, GAUGE, UNTYPED])
@pytest.mark.parametrize("value", [0.0, -0.0, 2.5, INFINITY, STALE_NAN])
def test_a_number_is_one_series(kind: MetricType, value: float) -> None:
    metric = sample(value, field=FIELDS[kind])
    assert parts(metric, kind) == [part("", value)]
    assert not is_native(metric, kind)


class TestSummary:
    def test_a_series_for_each_quantile_and_two_more(self) -> None:
        metric = sample(None, field="summary")
        metric.summary.sample_count = 3
        metric.summary.sample_sum = 7.5
        metric.summary.quantile.add(quantile=0.5, value=-0.0)
        metric.summary.quantile.add(quantile=1.0, value=STALE_NAN)
        assert parts(metric, SUMMARY) == [
            part("", -0.0, quantile="0.5"),
            part("", STALE_NAN, quantile="1.0"),
            part("_sum", 7.5),
            part("_count", 3.0),
        ]

    def test_what_is_absent_is_zero(self) -> None:
        empty = sample(None, field="summary")
        assert parts(empty, SUMMARY) == [part("_sum", 0.0), part("_count", 0.0)]


@pytest.mark.parametrize("kind", [HISTOGRAM, GAUGE_HISTOGRAM])
class TestClassicHistogram:
    def test_a_series_for_each_bucket_and_two_more(self, kind: MetricType) -> None:
        metric = histogram({0.5: 1, 1.0: 2, INFINITY: 4}, total=7.5, count=4)
        assert parts(metric, kind) == [
            part("_bucket", 1.0, le="0.5"),
            part("_bucket", 2.0, le="1.0"),
            part("_bucket", 4.0, le="+Inf"),
            part("_sum", 7.5),
            part("_count", 4.0),
        ]
        assert not is_native(metric, kind)

    def test_the_bucket_of_all_is_added_where_it_is_missing(self, kind: MetricType) -> None:
        assert parts(histogram({0.5: 1}, total=-0.0, count=4), kind) == [
            part("_bucket", 1.0, le="0.5"),
            part("_bucket", 4.0, le="+Inf"),
            part("_sum", -0.0),
            part("_count", 4.0),
        ]
        suffixes = [suffix for suffix, *_ in parts(histogram({INFINITY: 4, 0.5: 1}), kind)]
        assert suffixes == ["_bucket", "_bucket", "_sum", "_count"]
        assert parts(histogram({}), kind) == [
            part("_bucket", 0.0, le="+Inf"),
            part("_sum", 0.0),
            part("_count", 0.0),
        ]

    def test_counts_may_be_floats(self, kind: MetricType) -> None:
        metric = histogram({})
        metric.histogram.sample_count_float = 4.5
        metric.histogram.bucket.add(upper_bound=-1.0, cumulative_count_float=0.25)
        metric.histogram.bucket.add(upper_bound=1.0, cumulative_count=2)
        assert parts(metric, kind) == [
            part("_bucket", 0.25, le="-1.0"),
            part("_bucket", 2.0, le="1.0"),
            part("_bucket", 4.5, le="+Inf"),
            part("_sum", 0.0),
            part("_count", 4.5),
        ]


SPAN = BucketSpan(offset=-1, length=2)


class TestNativeHistogram:
    @pytest.mark.parametrize(
        "made",
        [
            pytest.param(Histogram(positive_span=[SPAN]), id="positive buckets"),
            pytest.param(Histogram(negative_span=[SPAN]), id="negative buckets"),
            pytest.param(Histogram(zero_threshold=0.1), id="zero threshold"),
            pytest.param(Histogram(zero_count=1), id="zero count"),
            pytest.param(Histogram(zero_count_float=0.5), id="zero count as float"),
        ],
    )
    def test_what_makes_a_histogram_native(self, made: Histogram) -> None:
        metric = Metric(histogram=made)
        for kind in (HISTOGRAM, GAUGE_HISTOGRAM):
            assert is_native(metric, kind)
            assert parts(metric, kind) == []
        assert not is_native(metric, UNTYPED)

    def test_one_that_has_classic_buckets_too_is_both(self) -> None:
        metric = histogram({1.0: 2}, total=7.5, count=2)
        metric.histogram.positive_span.append(SPAN)
        assert is_native(metric, HISTOGRAM)
        suffixes = [suffix for suffix, *_ in parts(metric, HISTOGRAM)]
        assert suffixes == ["_bucket", "_bucket", "_sum", "_count"]

    def test_integers_become_remote_write(self) -> None:
        source = Histogram(
            sample_count=9,
            sample_sum=-0.0,
            schema=-2,
            zero_threshold=0.001,
            zero_count=2,
            positive_span=[SPAN, BucketSpan(offset=3, length=1)],
            positive_delta=[3, -1, 0],
            negative_span=[BucketSpan(offset=0, length=1)],
            negative_delta=[1],
        )
        made = native_histogram(Metric(histogram=source), HISTOGRAM, NOW)
        assert bits(made.sum) == bits(-0.0)
        expected = NativeHistogram(
            count_int=9,
            sum=-0.0,
            schema=-2,
            zero_threshold=0.001,
            zero_count_int=2,
            positive_spans=[{"offset": -1, "length": 2}, {"offset": 3, "length": 1}],
            positive_deltas=[3, -1, 0],
            negative_spans=[{"offset": 0, "length": 1}],
            negative_deltas=[1],
            timestamp=NOW,
        )
        assert made == expected

    def test_floats_become_remote_write(self) -> None:
        source = Histogram(
            sample_count_float=4.5,
            sample_sum=7.5,
            schema=3,
            zero_count_float=0.5,
            positive_span=[SPAN],
            positive_count=[1.5, 1.0],
            negative_span=[BucketSpan(offset=0, length=1)],
            negative_count=[1.5],
        )
        expected = NativeHistogram(
            count_float=4.5,
            sum=7.5,
            schema=3,
            zero_count_float=0.5,
            positive_spans=[{"offset": -1, "length": 2}],
            positive_counts=[1.5, 1.0],
            negative_spans=[{"offset": 0, "length": 1}],
            negative_counts=[1.5],
            timestamp=NOW,
        )
        assert native_histogram(Metric(histogram=source), HISTOGRAM, NOW) == expected

    @pytest.mark.parametrize(
        ("made", "count", "zero_count"),
        [
            (Histogram(sample_count=1), "count_int", "zero_count_int"),
            (Histogram(zero_count=1), "count_int", "zero_count_int"),
            (Histogram(sample_count_float=0.5), "count_float", "zero_count_float"),
            (Histogram(zero_count_float=0.5), "count_float", "zero_count_float"),
        ],
    )
    def test_which_kind_of_numbers(self, made: Histogram, count: str, zero_count: str) -> None:
        native = native_histogram(Metric(histogram=made), HISTOGRAM, NOW)
        assert native.WhichOneof("count") == count
        assert native.WhichOneof("zero_count") == zero_count

    def test_only_a_gauge_is_marked_as_one(self) -> None:
        metric = Metric(histogram=Histogram(positive_span=[SPAN]))
        assert native_histogram(metric, HISTOGRAM, NOW).reset_hint == NativeHistogram.UNKNOWN
        assert native_histogram(metric, GAUGE_HISTOGRAM, NOW).reset_hint == NativeHistogram.GAUGE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.025, "0.025"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (100000.0, "100000.0"),
        (999999.5, "999999.5"),
        (1e6, "1e+06"),
        (-1e6, "-1e+06"),
        (1234567.0, "1.234567e+06"),
        (1234567.25, "1.23456725e+06"),
        (1e9, "1e+09"),
        (1e10, "1e+10"),
        (1.5e10, "1.5e+10"),
        (1e15, "1e+15"),
        (1e16, "1e+16"),
        (1.25e100, "1.25e+100"),
        (5e-324, "5e-324"),
        (INFINITY, "+Inf"),
        (-INFINITY, "-Inf"),
        (STALE_NAN, "NaN"),
    ],
)
def test_a_bound_is_written_as_prometheus_writes_it(value: float, text: str) -> None:
    assert number_text(value) == text
    if value == value:
        assert bits(float(text)) == bits(value)
