"""Short ways to write families, and to read what became of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from telemeter.samples.family import Family, Metric
from telemeter.samples.proto.metrics_pb2 import (
    COUNTER,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    SUMMARY,
    UNTYPED,
    MetricType,
)
from telemeter.samples.proto.remote_pb2 import WriteRequest

HOUR: Final = 3600 * 1000
DAY: Final = 24 * HOUR
#: The time of the tests, in milliseconds since the epoch: when the recording was made.
NOW: Final = 1_795_343_615_632

#: The field of a Metric for each type, written down once more on purpose.
FIELDS: Final = {
    COUNTER: "counter",
    GAUGE: "gauge",
    UNTYPED: "untyped",
    SUMMARY: "summary",
    HISTOGRAM: "histogram",
    GAUGE_HISTOGRAM: "histogram",
}


def bits(value: float) -> int:
    """The 64 bits of a double; unlike the number itself, a NaN's are equal to themselves."""
    return int.from_bytes(struct.pack("<d", value), "little")


def double(number: int) -> float:
    """The double that has these 64 bits."""
    (value,) = struct.unpack("<d", number.to_bytes(8, "little"))
    assert isinstance(value, float)
    return value


#: What Prometheus writes when a series ends, and what it stores for a NaN it read from text.
STALE_NAN: Final = double(0x7FF0000000000002)
NORMAL_NAN: Final = double(0x7FF8000000000001)


def family(name: str, *metrics: Metric, kind: MetricType = UNTYPED) -> Family:
    return Family(name=name, type=kind, metric=metrics)


def sample(
    value: float | None = 1.0, *, at: int | None = NOW, field: str = "untyped", **labels: str
) -> Metric:
    """A metric with one number, or with the field that should hold it, empty."""
    metric = Metric()
    for label, text in labels.items():
        metric.label.add(name=label, value=text)
    holder = getattr(metric, field)
    holder.SetInParent()
    if value is not None:
        holder.value = value
    if at is not None:
        metric.timestamp_ms = at
    return metric


def labelled(*pairs: tuple[str, str]) -> Metric:
    """A metric with these labels, whatever they are called and as often as they are there."""
    metric = sample()
    for name, value in pairs:
        metric.label.add(name=name, value=value)
    return metric


def histogram(
    buckets: dict[float, int], *, total: float = 0.0, count: int = 0, at: int = NOW, **labels: str
) -> Metric:
    """A metric with a classic histogram, its cumulative counts by their upper bounds."""
    metric = sample(None, at=at, field="histogram", **labels)
    metric.histogram.sample_sum = total
    metric.histogram.sample_count = count
    for bound, held in buckets.items():
        metric.histogram.bucket.add(upper_bound=bound, cumulative_count=held)
    return metric


def labels_of(metric: Metric) -> list[tuple[str, str]]:
    return [(pair.name, pair.value) for pair in metric.label]


def rows(families: Iterable[Family]) -> list[tuple[str, dict[str, str], int, int]]:
    """Each untyped metric: its name, labels, value as bits, and timestamp."""
    return [
        (family.name, dict(labels_of(metric)), bits(metric.untyped.value), metric.timestamp_ms)
        for family in families
        for metric in family.metric
    ]


def series_of(payload: bytes) -> list[tuple[dict[str, str], int, int]]:
    """Each series of an encoded `WriteRequest` with one sample: labels, value as bits, time."""
    found = []
    for series in WriteRequest.FromString(payload).timeseries:
        (only,) = series.samples
        labels = {label.name: label.value for label in series.labels}
        assert len(labels) == len(series.labels)
        found.append((labels, bits(only.value), only.timestamp))
    return found
