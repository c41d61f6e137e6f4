"""Whether a native histogram makes sense.

The rules are those of https://prometheus.io/docs/specs/native_histograms/: a receiver that breaks
them would store nonsense, and remote write 2.0 has it refuse instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from telemeter.metrics.errors import BadInputError
from telemeter.metrics.proto import write_v2_pb2

_CUSTOM_BUCKETS: Final = -53
_LOWEST_SCHEMA, _HIGHEST_SCHEMA = -9, 52


def check_histogram(histogram: write_v2_pb2.Histogram) -> None:
    """Check a histogram.

    Raises:
        BadInputError: it breaks a rule; the message names it.
    """
    if histogram.schema == _CUSTOM_BUCKETS:
        _check_custom(histogram)
    elif not _LOWEST_SCHEMA <= histogram.schema <= _HIGHEST_SCHEMA:
        raise BadInputError(f"schema {histogram.schema} is not known")
    elif histogram.custom_values:
        raise BadInputError("an exponential schema has no custom values")
    is_float = histogram.WhichOneof("count") == "count_float"
    observations: float = histogram.zero_count_float if is_float else histogram.zero_count_int
    for side, spans, deltas, counts in (
        (
            "negative",
            histogram.negative_spans,
            histogram.negative_deltas,
            histogram.negative_counts,
        ),
        (
            "positive",
            histogram.positive_spans,
            histogram.positive_deltas,
            histogram.positive_counts,
        ),
    ):
        buckets: list[float] = list(counts) if is_float else list(accumulate(deltas))
        _check_spans(side, spans, len(buckets))
        if any(count < 0 for count in buckets):
            raise BadInputError(f"a {side} bucket has a negative count")
        observations += sum(buckets)
    if not is_float:
        _check_count(histogram, int(observations))
    elif histogram.count_float < 0 or histogram.zero_count_float < 0:
        raise BadInputError("its count or that of its zero bucket is negative")


def _check_count(histogram: write_v2_pb2.Histogram, observations: int) -> None:
    """Whether the buckets hold what the histogram says; observations of NaN are in no bucket."""
    count = histogram.count_int
    if observations > count or (observations < count and not math.isnan(histogram.sum)):
        raise BadInputError(f"its buckets hold {observations} observations, its count is {count}")


def _check_spans(side: str, spans: Iterable[write_v2_pb2.BucketSpan], buckets: int) -> None:
    needed = 0
    for position, span in enumerate(spans):
        if position and span.offset < 0:
            raise BadInputError(f"a {side} span after the first has a negative offset")
        needed += span.length
    if needed != buckets:
        raise BadInputError(f"its {side} spans need {needed} buckets, it has {buckets}")


def _check_custom(histogram: write_v2_pb2.Histogram) -> None:
    bounds: Sequence[float] = histogram.custom_values
    if any(math.isnan(bound) for bound in bounds) or any(
        later <= earlier for earlier, later in pairwise(bounds)
    ):
        raise BadInputError("custom values must increase")
    if bounds and bounds[-1] == math.inf:
        raise BadInputError("custom values must not end with +Inf")
    if (
        histogram.zero_count_int
        or histogram.zero_count_float
        or histogram.zero_threshold
        or histogram.negative_spans
        or histogram.negative_deltas
        or histogram.negative_counts
    ):
        raise BadInputError("custom buckets have neither a zero bucket nor negative buckets")
    reach = 0
    for span in histogram.positive_spans:
        if span.offset < 0:
            raise BadInputError("a span of custom buckets has a negative offset")
        reach += span.offset + span.length
    if reach > len(bounds) + 1:
        raise BadInputError(f"its spans reach bucket {reach}, it has {len(bounds)} custom values")
