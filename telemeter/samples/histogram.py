"""Native histograms: whether they make sense, and how the versions of remote write hold them.

The rules are those of https://prometheus.io/docs/specs/native_histograms/: a receiver that breaks
them would store nonsense, and remote write has it refuse instead. What only 2.0 can hold gets a
form that 1.0 can hold: finer buckets become the finest that receivers of 1.0 know, and a histogram
with custom buckets becomes the classic histogram that it is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, TypeAlias

from telemeter.samples.errors import BadInputError
from telemeter.samples.family import Metric
from telemeter.samples.limits import COARSEST_SCHEMA, FINEST_SCHEMA
from telemeter.samples.proto import remote_pb2, write_v2_pb2
from telemeter.samples.series import (
    CUSTOM_BUCKETS,
    is_native,
    native_histogram,
    number_text,
)

#: A histogram of either version: their fields are the same, but for the start timestamp of 2.0.
Histogram: TypeAlias = remote_pb2.Histogram | write_v2_pb2.Histogram
Spans: TypeAlias = Iterable[remote_pb2.BucketSpan | write_v2_pb2.BucketSpan]

#: The schemas with exponential buckets that there are.
_LOWEST_SCHEMA, _HIGHEST_SCHEMA = -9, 52
_STALE: Final = struct.pack("<Q", 0x7FF0000000000002)
_MOST_OFFSET: Final = 2**31 - 1
_MOST_COUNT: Final = 2**63 - 1


class Point(NamedTuple):
    """One number of a classic histogram.

    Attributes:
        suffix: what follows the name of the histogram in the name of the series.
        le: the value of the label `le`, which only buckets have.
        value: the number.
    """

    suffix: str
    le: str | None
    value: float


def checked_native(
    metric: Metric, family_type: int, timestamp_ms: int
) -> remote_pb2.Histogram | None:
    """Return the native histogram of a metric, with buckets that every receiver knows, or None.

    Args:
        metric: may hold one.
        family_type: the type of its family.
        timestamp_ms: what the histogram gets as its timestamp.

    Raises:
        BadInputError: it makes no sense.
    """
    if not is_native(metric, family_type):
        return None
    if metric.histogram.schema == CUSTOM_BUCKETS:
        raise BadInputError(
            f"a native histogram has custom buckets (schema {CUSTOM_BUCKETS}), of which this "
            "format cannot say the bounds: send it as a classic histogram"
        )
    histogram = native_histogram(metric, family_type, timestamp_ms)
    try:
        check_histogram(histogram)
        if is_too_fine(histogram):
            make_coarser(histogram)
    except BadInputError as error:
        raise BadInputError(f"a native histogram is not valid: {error}") from None
    return histogram


def check_histogram(histogram: Histogram, *, is_kept: bool = False) -> None:
    """Check a histogram.

    Args:
        histogram: what to check.
        is_kept: whether it stays in remote write 2.0, where more schemas may be written.

    Raises:
        BadInputError: it breaks a rule; the message names it.
    """
    schema = histogram.schema
    if schema == CUSTOM_BUCKETS:
        _check_custom(histogram)
    elif not _LOWEST_SCHEMA <= schema <= _HIGHEST_SCHEMA:
        raise BadInputError(
            f"schema {schema} is not known: expected {COARSEST_SCHEMA} to {_HIGHEST_SCHEMA}, "
            f"or {CUSTOM_BUCKETS} for custom buckets"
        )
    elif schema < COARSEST_SCHEMA and not is_kept:
        raise BadInputError(
            f"schema {schema} is coarser than the receivers of remote write 1.0 know: "
            f"expected {COARSEST_SCHEMA} or more"
        )
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


def _check_count(histogram: Histogram, observations: int) -> None:
    """Tell whether the buckets hold what the histogram says; NaN is in no bucket."""
    count = histogram.count_int
    if observations > count or (observations < count and not math.isnan(histogram.sum)):
        raise BadInputError(f"its buckets hold {observations} observations, its count is {count}")


def _check_spans(side: str, spans: Spans, buckets: int) -> None:
    needed = 0
    for position, span in enumerate(spans):
        if position and span.offset < 0:
            raise BadInputError(f"a {side} span after the first has a negative offset")
        needed += span.length
    if needed != buckets:
        raise BadInputError(f"its {side} spans need {needed} buckets, it has {buckets}")


def _check_custom(histogram: Histogram) -> None:
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


# --- Custom buckets -------------------------------------------------------------------------------


def classic_points(histogram: Histogram) -> Iterator[Point]:
    """Yield the numbers of the classic histogram that one with custom buckets is.

    Its buckets are cumulative, the last one is `+Inf`. The mark that a series has ended marks all
    of them.

    Args:
        histogram: one with custom buckets that `check_histogram` lets pass.
    """
    count = float(histogram.count_int or histogram.count_float)
    if is_stale(histogram):
        values = [histogram.sum] * len(histogram.custom_values)
        count = histogram.sum
    else:
        values = list(map(float, accumulate(_custom_counts(histogram))))
    for text, value in zip(bucket_texts(histogram), [*values, count], strict=True):
        yield Point("_bucket", text, value)
    yield Point("_sum", None, histogram.sum)
    yield Point("_count", None, count)


def is_stale(histogram: Histogram) -> bool:
    """Return whether a histogram is the mark that its series has ended."""
    return struct.pack("<d", histogram.sum) == _STALE


def bucket_texts(histogram: Histogram) -> list[str]:
    """Return the labels `le` of the buckets of a histogram with custom buckets."""
    return [*map(bound_text, histogram.custom_values), "+Inf"]


@lru_cache(4096)
def bound_text(bound: float) -> str:
    """Return the label `le` of a bucket."""
    # Adding nothing makes a zero without a sign: that is how Prometheus writes it.
    return number_text(bound + 0.0)


def _custom_counts(histogram: Histogram) -> list[float]:
    """Return the counts of the buckets that have a bound, also of those that no span mentions."""
    counts: list[float] = [0] * (len(histogram.custom_values) + 1)
    is_float = histogram.WhichOneof("count") == "count_float"
    held: Iterable[float] = (
        histogram.positive_counts if is_float else accumulate(histogram.positive_deltas)
    )
    for index, count in zip(_indexes(histogram.positive_spans), held, strict=True):
        counts[index] = count
    return counts[:-1]


# --- Finer buckets --------------------------------------------------------------------------------


def is_too_fine(histogram: Histogram) -> bool:
    """Tell whether its buckets are finer than the receivers of 1.0 know."""
    return histogram.schema > FINEST_SCHEMA


def make_coarser(histogram: remote_pb2.Histogram) -> None:
    """Give a histogram that is too fine the finest buckets that the receivers of 1.0 know.

    Each of the new buckets holds what a whole number of the old ones held, so nothing gets
    another value than it had, as far as the new ones tell.

    Args:
        histogram: one that `check_histogram` lets pass; it is changed.

    Raises:
        BadInputError: its buckets lie where no number is.
    """
    shift = histogram.schema - FINEST_SCHEMA
    histogram.schema = FINEST_SCHEMA
    is_float = histogram.WhichOneof("count") == "count_float"
    for spans, deltas, counts in (
        (histogram.negative_spans, histogram.negative_deltas, histogram.negative_counts),
        (histogram.positive_spans, histogram.positive_deltas, histogram.positive_counts),
    ):
        held: Iterable[float] = counts if is_float else accumulate(deltas)
        merged: dict[int, float] = {}
        for index, count in zip(_indexes(spans), held, strict=True):
            # The bucket with the index i ends at base ** i: so 1 begins a group, not 0.
            wider = ((index - 1) >> shift) + 1
            merged[wider] = merged.get(wider, 0) + count
        del spans[:], deltas[:], counts[:]
        end = 0
        for index in merged:
            offset = index - end
            if spans and not offset:
                spans[-1].length += 1
            elif -_MOST_OFFSET <= offset <= _MOST_OFFSET:
                spans.add(offset=offset, length=1)
            else:
                raise BadInputError(f"a histogram has a bucket {index}, where no number is")
            end = index + 1
        if is_float:
            counts.extend(merged.values())
        elif max(merged.values(), default=0) > _MOST_COUNT:
            raise BadInputError(f"a histogram has more than {_MOST_COUNT} observations in a bucket")
        else:
            deltas.extend(int(b - a) for a, b in pairwise([0, *merged.values()]))


def _indexes(spans: Spans) -> Iterator[int]:
    index = 0
    for span in spans:
        index += span.offset
        yield from range(index, index + span.length)
        index += span.length
