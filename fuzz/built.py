"""Targets that build messages out of few texts and numbers, so that much in them is the same.

Bytes that are changed at random seldom make two series that are almost one. Here each pair of bytes
is a step: another series, a label, a sample. What comes of it goes to the targets of conversions.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Final, TypeVar

from fuzz.conversions import run_collect, run_store, run_upload, run_write_1, run_write_2
from fuzz.target import Target, head_and_rest
from telemeter.samples.family import VALUE_FIELD, Family, Metric, encode_families
from telemeter.samples.proto.metrics_pb2 import (
    COUNTER,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    SUMMARY,
    UNTYPED,
)
from telemeter.samples.proto.remote_pb2 import Histogram, TimeSeries, WriteRequest
from telemeter.samples.proto.write_v2_pb2 import Request
from telemeter.samples.proto.write_v2_pb2 import TimeSeries as TimeSeries2
from tests.samples.build import DAY, NOW, STALE_NAN

_T = TypeVar("_T")

#: What labels are made of: names and values, some of them at a limit, as one table of symbols.
_TEXTS: Final = (
    *("", "__name__", "up", "_id", "c", "a", "b", "job", "le", "region", "x", "é", "h", "go_x"),
    *("a.b", "instance", "n" * 9, "n" * 127, "n" * 128, "v" * 17, "\U0001f600", "quantile", "d"),
)
_NAMES: Final = ("up", "h", "go_x", "a.b")
_VALUES: Final = (0.0, 1.0, -0.0, STALE_NAN, float("nan"), float("inf"), 1e300, 5e-324)
_STAMPS: Final = (NOW, NOW, NOW, NOW + 1, NOW + 2, NOW - DAY, NOW - DAY - 1, 0, -1, NOW + DAY)
_SCHEMAS: Final = (0, 3, 8, 9, 52, 53, -4, -5, -53)
_FIELDS: Final = ("counter", "gauge", "untyped", "summary", "histogram")
_TYPES: Final = (COUNTER, GAUGE, UNTYPED, SUMMARY, HISTOGRAM, GAUGE_HISTOGRAM)


def _steps(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield what each pair of bytes asks for: the kind of a step, and two choices."""
    for first, second in zip(data[::2], data[1::2], strict=False):
        yield first & 7, first >> 3, second


def _text(number: int) -> str:
    return _TEXTS[number % len(_TEXTS)]


def _histogram(one: int, other: int) -> Histogram:
    """Make a histogram, mostly a valid one."""
    made = Histogram(schema=_SCHEMAS[one % len(_SCHEMAS)], timestamp=NOW + (other >> 6))
    lengths = (other & 3, other >> 2 & 3)
    if other & 16:
        made.count_float = sum(lengths)
        made.positive_counts.extend([1.0] * lengths[0])
        made.negative_counts.extend([1.0] * lengths[1])
    else:
        made.count_int = sum(lengths)
        made.positive_deltas.extend([1, 0, 0][: lengths[0]])
        made.negative_deltas.extend([1, 0, 0][: lengths[1]])
    if lengths[0]:
        made.positive_spans.add(offset=one - 9, length=lengths[0])
    if lengths[1]:
        made.negative_spans.add(offset=0, length=lengths[1])
    if made.schema == -53:
        made.custom_values.extend([0.5, 1e6, 2e6][: other >> 5 & 3])
    return made


def _again(known: MutableSequence[_T], back: int) -> _T:
    """Add a series again that came so long before, or another one if there was none."""
    at = len(known) - 1 - back % (len(known) or 1)
    added: _T = known.add()  # type: ignore[attr-defined]
    if at >= 0:
        added.CopyFrom(known[at])  # type: ignore[attr-defined]
    return added


def write_1(data: bytes) -> bytes:
    """Build a remote write."""
    request = WriteRequest()
    series = TimeSeries()
    for step, one, other in _steps(data):
        if step == 0:
            series = request.timeseries.add()
            if one & 15:
                series.labels.add(name="__name__", value=_NAMES[other % len(_NAMES)])
                series.labels.add(name="_id", value="c")
                series.samples.add(value=1.0, timestamp=NOW)
        elif step in (1, 2):
            if step == 1 or all(_text(one) != label.name for label in series.labels):
                series.labels.add(name=_text(one), value=_text(other))
        elif step == 3:
            stamp = _STAMPS[other % len(_STAMPS)]
            series.samples.add(value=_VALUES[one % len(_VALUES)], timestamp=stamp)
        elif step == 4:
            series.histograms.append(_histogram(one, other))
        elif step == 5:
            series.exemplars.add(value=1.0).labels.add(name=_text(one), value=_text(other))
        elif step == 6:
            series = _again(request.timeseries, one)
        else:
            request.metadata.add(type=one & 7, metric_family_name=_text(other))
    return request.SerializeToString()


def write_2(data: bytes) -> bytes:
    """Build a remote write 2.0."""
    request = Request(symbols=_TEXTS)
    series = TimeSeries2()
    for step, one, other in _steps(data):
        if step == 0:
            series = request.timeseries.add()
            if one & 15:
                name = _TEXTS.index(_NAMES[other % len(_NAMES)])
                series.labels_refs.extend((1, name, 3, 4))
                series.samples.add(value=1.0, timestamp=NOW)
        elif step in (1, 2):
            name = one % len(_TEXTS)
            if step == 1 and other > 250:
                series.labels_refs.extend((name, other % (len(_TEXTS) + 1)))
            elif name and name not in series.labels_refs[::2]:
                series.labels_refs.extend((name, other % len(_TEXTS)))
        elif step == 3:
            stamp = _STAMPS[other % len(_STAMPS)]
            series.samples.add(value=_VALUES[one % len(_VALUES)], timestamp=stamp)
        elif step == 4:
            series.histograms.add().MergeFromString(_histogram(one, other).SerializeToString())
        elif step == 5:
            references = (one % len(_TEXTS), other % len(_TEXTS))
            series.exemplars.add(value=1.0, labels_refs=references)
        elif step == 6:
            series = _again(request.timeseries, one)
        else:
            series.metadata.type = one & 7  # type: ignore[assignment]
            series.metadata.help_ref = other % len(_TEXTS)
    return request.SerializeToString()


def families(data: bytes) -> bytes:
    """Build an upload, or a collection."""
    made = [Family()]
    metric = Metric()
    for step, one, other in _steps(data):
        if step == 0:
            made.append(Family(name=_NAMES[other % len(_NAMES)] if one & 16 else _text(other)))
            if one & 7 < len(_TYPES):
                made[-1].type = _TYPES[one & 7]
            if one & 8:
                made[-1].help = "help"
        elif step == 1:
            metric = made[-1].metric.add()
            metric.timestamp_ms = _STAMPS[other % len(_STAMPS)] if one & 16 else NOW
            if one & 7:
                metric.label.add(name="_id", value="c")
            own = VALUE_FIELD.get(made[-1].type, "gauge")
            _give_value(metric, own if one & 8 else _FIELDS[one % len(_FIELDS)], other >> 4)
        elif step in (2, 3):
            metric.label.add(name=_text(one), value=_text(other))
        elif step == 4:
            _give_value(metric, _FIELDS[one % len(_FIELDS)], other)
        elif step == 5:
            _give_native(metric, _histogram(one, other))
        elif step == 6:
            metric.histogram.bucket.add(upper_bound=one, cumulative_count=other)
        elif one & 1 and metric.label:
            metric.label[-1].ClearField("value" if other & 1 else "name")
        elif made[-1].metric:
            last = made[-1].metric[-1]
            metric = made[-1].metric.add()
            metric.CopyFrom(last)
    return encode_families(made if made[0].metric else made[1:])


def _give_value(metric: Metric, name: str, number: int) -> None:
    value = _VALUES[number % len(_VALUES)]
    if name == "summary":
        metric.summary.quantile.add(quantile=0.5, value=value)
    elif name == "histogram":
        metric.histogram.sample_sum = value
    else:
        getattr(metric, name).value = value


def _give_native(metric: Metric, source: Histogram) -> None:
    target = metric.histogram
    target.schema = source.schema
    target.sample_count = source.count_int
    if source.WhichOneof("count") == "count_float":
        target.sample_count_float = source.count_float
    target.positive_delta.extend(source.positive_deltas)
    target.negative_delta.extend(source.negative_deltas)
    target.positive_count.extend(source.positive_counts)
    target.negative_count.extend(source.negative_counts)
    for span in source.positive_spans:
        target.positive_span.add(offset=span.offset, length=span.length)
    for span in source.negative_spans:
        target.negative_span.add(offset=span.offset, length=span.length)


def run_writes(data: bytes) -> None:
    """Both versions go on as their references have them, and the store shows what it took."""
    kind, steps = head_and_rest(data)
    head = bytes([kind])
    if kind & 4:
        body = write_2(steps)
        run_write_2(head + body)
    else:
        body = write_1(steps)
        run_write_1(head + body)
    if kind & 8:
        run_store((b"\2" if kind & 4 else b"\0") + body)


def run_uploads(data: bytes) -> None:
    """Uploads and collections go on as their references have them."""
    kind, steps = head_and_rest(data)
    run = run_collect if kind & 8 else run_upload
    run(bytes([kind]) + families(steps))


#: A step each: another series or family, a label, a number.
_WORDS: Final = tuple(
    bytes([one << 3 | step, other]) for step in range(8) for one in (3, 9, 17) for other in (0, 5)
)
TARGETS: Final = (
    Target(
        "built-writes",
        run_writes,
        lambda: [
            bytes([kind, 0x08, 0, 0x2A, 10, 0x1B, 0, 0x1B, 3, 0x08, 1, 0x2A, 5, 0x3A, 9, 0x0E, 0])
            + more
            for kind in range(16)
            for more in (b"", b"\x0c\x01", b"\x44\x2f", b"\x35\x05\x0f\x02")
        ],
        _WORDS,
        512,
    ),
    Target(
        "built-uploads",
        run_uploads,
        lambda: [
            bytes([kind, 0x80 | one << 3, 0, 0x49, 0x10, 0x2A, 10, 0x49, 1, 0x2A, 5, 0x07, 0])
            for kind in range(16)
            for one in range(6)
        ],
        _WORDS,
        512,
    ),
)
