"""The series that one metric of a family stands for.

A counter, a gauge or an untyped metric is one series. A histogram and a summary are several, named
and labelled as the text format of Prometheus has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from telemeter.samples.family import SCALAR_TYPES, VALUE_FIELD, Metric
from telemeter.samples.proto import metrics_pb2, remote_pb2

#: The schema of a native histogram that names the bounds of its buckets.
CUSTOM_BUCKETS: Final = -53
_HISTOGRAM_TYPES = frozenset((metrics_pb2.HISTOGRAM, metrics_pb2.GAUGE_HISTOGRAM))


class Part(NamedTuple):
    """One series of a metric.

    Attributes:
        suffix: what follows the family's name in the name of the series.
        label: the label that tells it from its siblings, if it needs one.
        value: its value.
    """

    suffix: str
    label: tuple[str, str] | None
    value: float


def parts_of(metric: Metric, family_type: int) -> Iterator[Part]:
    """Return the series with one number each that a metric stands for.

    A native histogram without classic buckets has none: see `native_histogram`.
    """
    if family_type in SCALAR_TYPES:
        yield Part("", None, getattr(metric, VALUE_FIELD[family_type]).value)
    elif family_type == metrics_pb2.SUMMARY:
        summary = metric.summary
        for quantile in summary.quantile:
            yield Part("", ("quantile", number_text(quantile.quantile)), quantile.value)
        yield Part("_sum", None, summary.sample_sum)
        yield Part("_count", None, float(summary.sample_count))
    elif not is_native(metric, family_type) or metric.histogram.bucket:
        yield from _classic_parts(metric.histogram)


def number_text(value: float) -> str:
    """Return a number as Prometheus writes it in the labels `le` and `quantile`: `1.0`, `1e+06`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if abs(value) < 1e6 or "e" in text:
        return text
    # Prometheus changes to exponents at a million, Python much later.
    sign = "-" if value < 0 else ""
    whole, fraction = repr(abs(value)).split(".")
    digits = (whole + fraction).rstrip("0")
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e+{len(whole) - 1:02}"


def value_text(value: float) -> str:
    """Return a number as Prometheus writes it as the value of a sample: `1`, `0.5`, `1e+06`."""
    return number_text(value).removesuffix(".0")


def _classic_parts(histogram: metrics_pb2.Histogram) -> Iterator[Part]:
    count = histogram.sample_count_float or float(histogram.sample_count)
    infinite = False
    for bucket in histogram.bucket:
        infinite = infinite or bucket.upper_bound == math.inf
        yield Part(
            "_bucket",
            ("le", number_text(bucket.upper_bound)),
            bucket.cumulative_count_float or float(bucket.cumulative_count),
        )
    if not infinite:
        yield Part("_bucket", ("le", "+Inf"), count)
    yield Part("_sum", None, histogram.sample_sum)
    yield Part("_count", None, count)


def is_native(metric: Metric, family_type: int) -> bool:
    """Tell whether the metric carries a native histogram, by the rule that Prometheus uses.

    Here custom buckets have no bounds but those of the classic buckets beside them, if there are
    any: then it is a classic histogram.
    """
    if family_type not in _HISTOGRAM_TYPES:
        return False
    histogram = metric.histogram
    if histogram.schema == CUSTOM_BUCKETS and histogram.bucket:
        return False
    return bool(
        histogram.positive_span
        or histogram.negative_span
        or histogram.zero_threshold > 0
        or histogram.zero_count > 0
        or histogram.zero_count_float > 0
    )


def native_histogram(metric: Metric, family_type: int, timestamp_ms: int) -> remote_pb2.Histogram:
    """Return the native histogram of a metric as remote write carries it."""
    source = metric.histogram
    target = remote_pb2.Histogram(
        sum=source.sample_sum,
        schema=source.schema,
        zero_threshold=source.zero_threshold,
        negative_deltas=source.negative_delta,
        negative_counts=source.negative_count,
        positive_deltas=source.positive_delta,
        positive_counts=source.positive_count,
        timestamp=timestamp_ms,
    )
    # A histogram of floats without observations has no number that would tell, but its buckets.
    if (
        source.sample_count_float > 0
        or source.zero_count_float > 0
        or source.positive_count
        or source.negative_count
    ):
        target.count_float = source.sample_count_float
        target.zero_count_float = source.zero_count_float
    else:
        target.count_int = source.sample_count
        target.zero_count_int = source.zero_count
    for spans, copies in (
        (source.negative_span, target.negative_spans),
        (source.positive_span, target.positive_spans),
    ):
        for span in spans:
            copies.add(offset=span.offset, length=span.length)
    if family_type == metrics_pb2.GAUGE_HISTOGRAM:
        target.reset_hint = remote_pb2.Histogram.GAUGE
    return target
