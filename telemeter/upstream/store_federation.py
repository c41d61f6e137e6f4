"""What is in the embedded store, as Prometheus shows it at /federate: a piece at a time.

Source: https://prometheus.io/docs/prometheus/latest/federation/. Families come sorted by name, all
of type untyped. In a family the series come cluster by cluster. Each says when its sample was
taken; one without a label `instance` gets an empty one, so that a Prometheus that honours labels
does not put its own there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import Final, Protocol

from telemeter.metrics.family import encode_families
from telemeter.metrics.proto import metrics_pb2, remote_pb2
from telemeter.metrics.selector import NAME, Selector
from telemeter.metrics.series import number_text, value_text
from telemeter.metrics.wire import write_varint
from telemeter.upstream.store import Store
from telemeter.upstream.store_cluster import Chosen, ClusterSeries
from telemeter.upstream.store_records import histogram_of, time_of

#: How much of a family is put into one message; a larger family becomes several.
_MESSAGE_BYTES: Final = 256 * 1024
#: How many texts of labels and numbers are remembered.
_MOST_REMEMBERED: Final = 16384
#: Longer labels are not, in bytes.
_LONG_LABEL: Final = 512
#: How many clusters are looked at before others get their turn.
_AT_ONCE: Final = 64
_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_INSTANCE: Final = b"\x0a\x08instance\x12"
_NO_INSTANCE: Final = b"\x0a\x0c" + _INSTANCE + b"\x00"
_SAMPLE: Final = struct.Struct("<xdq")

Passes = Callable[[list[bytes]], bool]


class Encoding(Protocol):
    """A format to show series in."""

    def begin(self, name: str) -> None:
        """A family begins."""

    def add(self, series: Sequence[Chosen]) -> bytes:
        """What to write for some series of the family."""
        ...

    def end(self) -> bytes:
        """What to write at the end of the family."""
        ...

    def close(self) -> bytes:
        """What to write at the end of everything."""
        ...


class Federation:
    """The series that at least one selector selects."""

    def __init__(self, store: Store, selectors: Sequence[Selector], encoding: Encoding) -> None:
        self._store = store
        # {} selects nothing, as in Prometheus.
        self._selectors = [_Choice(selector) for selector in selectors if selector.matchers]
        self._encoding = encoding

    def pieces(self) -> Iterator[bytes]:
        """The text or the messages, in pieces that take little time each; some are empty."""
        for name, clusters in self._families():
            passes = self._passes(name)
            if passes is None:
                yield b""
                continue
            self._encoding.begin(name.decode())
            for number, cluster in enumerate(clusters):
                found = self._store.cluster(cluster)
                if found is not None:
                    for series in found.walk(name, passes):
                        yield self._encoding.add(series)
                elif number % _AT_ONCE == 0:
                    yield b""
            yield self._encoding.end()
        yield self._encoding.close()

    def _families(self) -> Iterator[tuple[bytes, Sequence[str]]]:
        """The metric names in order, each with the clusters that may have it."""
        clusters = self._store.clusters()
        if not self._selectors:
            return
        exact = {choice.selector.exact_name for choice in self._selectors}
        if None not in exact:
            for name in sorted(name.encode() for name in exact if name):
                yield name, clusters
            return
        heap: list[tuple[bytes, str]] = []
        for number, cluster in enumerate(clusters):
            self._push(heap, cluster, ClusterSeries.first_name)
            if number % _AT_ONCE == 0:
                yield b"", ()
        while heap:
            name = heap[0][0]
            having = []
            while heap and heap[0][0] == name:
                having.append(heappop(heap)[1])
                if len(having) % _AT_ONCE == 0:
                    yield b"", ()
            yield name, having
            for number, cluster in enumerate(having):
                self._push(heap, cluster, lambda found: found.name_after(name))  # noqa: B023
                if number % _AT_ONCE == 0:
                    yield b"", ()

    def _push(
        self,
        heap: list[tuple[bytes, str]],
        cluster: str,
        next_name: Callable[[ClusterSeries], bytes | None],
    ) -> None:
        found = self._store.cluster(cluster)
        name = None if found is None else next_name(found)
        if name is not None:
            heappush(heap, (name, cluster))

    def _passes(self, name: bytes) -> Passes | None:
        """What decides on the series of a metric name; None: no selector selects any of them."""
        if not name:
            return None
        text = name.decode()
        choices = [choice for choice in self._selectors if choice.selects_name(text)]
        if not choices:
            return None
        if any(not choice.others for choice in choices):
            return lambda labels: True

        def passes(encoded: list[bytes]) -> bool:
            labels = dict(map(label_of, encoded))
            get = labels.get
            return any(
                all(matcher.matches(get(matcher.name, "")) for matcher in choice.others)
                for choice in choices
            )

        return passes


class _Choice:
    """A selector, with what it says of the metric name told apart from the rest."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self._names = [matcher for matcher in selector.matchers if matcher.name == NAME]
        self.others = [matcher for matcher in selector.matchers if matcher.name != NAME]

    def selects_name(self, name: str) -> bool:
        return all(matcher.matches(name) for matcher in self._names)


def label_of(encoded: bytes) -> tuple[str, str]:
    """The name and the value of a label that is encoded as a field."""
    return _known_label(encoded) if len(encoded) <= _LONG_LABEL else _decoded(encoded)


def _decoded(encoded: bytes) -> tuple[str, str]:
    # A tag and a size in front of the message; the size ends with the first byte below 128.
    start = 2
    while encoded[start - 1] >= 0x80:
        start += 1
    label = remote_pb2.Label.FromString(encoded[start:])
    return label.name, label.value


_known_label = lru_cache(_MOST_REMEMBERED)(_decoded)


class Text:
    """The text format 0.0.4, or OpenMetrics.

    Native histograms have no such form. Names with other characters than the format's own are
    quoted for who knows that; for others such series are left out.
    """

    def __init__(self, *, open_metrics: bool = False, utf8: bool = False) -> None:
        """Make one.

        Args:
            open_metrics: whether it is OpenMetrics.
            utf8: whether the reader understands quoted names.
        """
        self._open_metrics = open_metrics
        self._utf8 = utf8
        self._labels: dict[bytes, bytes | None] = {}
        self._samples: dict[bytes, bytes] = {}
        self._header = b""
        self._prefix: bytes | None = None

    def begin(self, name: str) -> None:
        self._header = b""
        self._prefix = None
        plain = _METRIC_NAME.fullmatch(name) is not None
        if plain or self._utf8:
            shown = name if plain else _quoted(name)
            kind = "unknown" if self._open_metrics else "untyped"
            self._header = f"# TYPE {shown} {kind}\n".encode()
            self._prefix = f"{shown}{{".encode() if plain else f"{{{shown},".encode()

    def add(self, series: Sequence[Chosen]) -> bytes:
        prefix = self._prefix
        if prefix is None:
            return b""
        lines = []
        known = self._labels
        for labels, tail in series:
            if tail[0] & 1:
                continue
            texts = []
            instance = False
            for label in labels:
                text = known.get(label)
                if text is None:
                    text = self._label(label)
                    if text is None:
                        break
                if text.startswith(b'instance="'):
                    instance = True
                texts.append(text)
            else:
                if not instance:
                    texts.append(b'instance=""')
                lines.append(b"%b%b} %b\n" % (prefix, b",".join(texts), self._sample(tail)))
        if not lines:
            return b""
        header, self._header = self._header, b""
        return header + b"".join(lines)

    def end(self) -> bytes:
        return b""

    def close(self) -> bytes:
        return b"# EOF\n" if self._open_metrics else b""

    def _label(self, encoded: bytes) -> bytes | None:
        name, value = label_of(encoded)
        if _LABEL_NAME.fullmatch(name):
            text = f"{name}={_quoted(value)}".encode()
        elif self._utf8:
            text = f"{_quoted(name)}={_quoted(value)}".encode()
        else:
            return None
        if len(self._labels) >= _MOST_REMEMBERED:
            self._labels.clear()
        if len(encoded) <= _LONG_LABEL:
            self._labels[encoded] = text
        return text

    def _sample(self, tail: bytes) -> bytes:
        text = self._samples.get(tail)
        if text is None:
            value, when = _SAMPLE.unpack(tail)
            if self._open_metrics:
                sign = "-" if when < 0 else ""
                stamp = f"{sign}{abs(when) // 1000}.{abs(when) % 1000:03}"
                text = f"{number_text(value)} {stamp}".encode()
            else:
                text = f"{value_text(value)} {when}".encode()
            if len(self._samples) >= _MOST_REMEMBERED:
                self._samples.clear()
            self._samples[tail] = text
        return text


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


class Messages:
    """Delimited protobuf: messages of `io.prometheus.client.MetricFamily`."""

    def __init__(self, *, utf8: bool = False) -> None:
        """Make one.

        Args:
            utf8: whether the reader takes names of any characters; for others series with such
                names are left out.
        """
        self._utf8 = utf8
        self._name: str | None = None
        self._family = b""
        self._metrics: list[bytes] = []
        self._size = 0
        self._valid: dict[bytes, bool] = {}

    def begin(self, name: str) -> None:
        self._name = name if self._utf8 or _METRIC_NAME.fullmatch(name) else None
        encoded = name.encode()
        self._family = b"\x0a" + write_varint(len(encoded)) + encoded + b"\x18\x03"

    def add(self, series: Sequence[Chosen]) -> bytes:
        if self._name is None:
            return b""
        histograms = []
        for labels, tail in series:
            if not all(map(self._is_valid, labels)):
                continue
            if tail[0] & 1:
                histograms.append(self._histogram(self._name, labels, tail))
                continue
            encoded = b"".join(labels)
            when = write_varint(time_of(tail) & (1 << 64) - 1)
            metric = b"%b%b\x2a\x09\x09%b\x30%b" % (
                encoded,
                b"" if _INSTANCE in encoded else _NO_INSTANCE,
                tail[1:9],
                when,
            )
            metric = b"\x22" + write_varint(len(metric)) + metric
            self._metrics.append(metric)
            self._size += len(metric)
        flushed = self.end() if histograms or self._size > _MESSAGE_BYTES else b""
        return flushed + encode_families(histograms) if histograms else flushed

    def end(self) -> bytes:
        if not self._metrics:
            return b""
        message = self._family + b"".join(self._metrics)
        self._metrics = []
        self._size = 0
        return write_varint(len(message)) + message

    def close(self) -> bytes:
        return b""

    def _is_valid(self, label: bytes) -> bool:
        if self._utf8:
            return True
        known = self._valid.get(label)
        if known is None:
            known = _LABEL_NAME.fullmatch(label_of(label)[0]) is not None
            if len(self._valid) >= _MOST_REMEMBERED:
                self._valid.clear()
            if len(label) <= _LONG_LABEL:
                self._valid[label] = known
        return known

    def _histogram(self, name: str, labels: list[bytes], tail: bytes) -> metrics_pb2.MetricFamily:
        """A native histogram, as a family of its own: they are rare, and may be of two types."""
        source = histogram_of(tail)
        gauge = source.reset_hint == remote_pb2.Histogram.GAUGE
        family = metrics_pb2.MetricFamily(
            name=name, type=metrics_pb2.GAUGE_HISTOGRAM if gauge else metrics_pb2.HISTOGRAM
        )
        metric = family.metric.add(timestamp_ms=source.timestamp)
        pairs = list(map(label_of, labels))
        if not any(label == "instance" for label, _ in pairs):
            pairs.append(("instance", ""))
        for label, value in pairs:
            metric.label.add(name=label, value=value)
        target = metric.histogram
        target.sample_sum = source.sum
        target.schema = source.schema
        target.zero_threshold = source.zero_threshold
        if source.WhichOneof("count") == "count_float":
            target.sample_count_float = source.count_float
            target.zero_count_float = source.zero_count_float
        else:
            target.sample_count = source.count_int
            target.zero_count = source.zero_count_int
        target.negative_delta.extend(source.negative_deltas)
        target.negative_count.extend(source.negative_counts)
        target.positive_delta.extend(source.positive_deltas)
        target.positive_count.extend(source.positive_counts)
        for spans, copies in (
            (source.negative_spans, target.negative_span),
            (source.positive_spans, target.positive_span),
        ):
            for span in spans:
                copies.add(offset=span.offset, length=span.length)
        return family
