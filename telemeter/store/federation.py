"""The embedded store as a Prometheus shows it at /federate: a piece at a time.

Source: https://prometheus.io/docs/prometheus/latest/federation/. Families come sorted by name, all
of type untyped. In a family the series come cluster by cluster. Each says when its sample was
taken; one without a label `instance` gets an empty one, so that a Prometheus that honours labels
does not put its own there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Final, Protocol, TypeAlias

from telemeter.samples.escaping import Escaping, is_plain_label, is_plain_name
from telemeter.samples.family import encode_families
from telemeter.samples.proto import metrics_pb2, remote_pb2
from telemeter.samples.selector import NAME, Selector
from telemeter.samples.series import number_text, value_text
from telemeter.samples.wire import write_varint
from telemeter.store.cluster import Chosen, ClusterSeries
from telemeter.store.escaped_names import (
    Families,
    LabelEscaper,
    Passes,
    label_of,
    names_in_turns,
)
from telemeter.store.records import histogram_of, time_of
from telemeter.store.store import Store

#: How much of a family is put into one message; a larger family becomes several.
_MESSAGE_BYTES: Final = 256 * 1024
#: How many texts of labels and numbers are remembered.
_MOST_REMEMBERED: Final = 16384
#: Longer labels are not, in bytes.
_LONG_LABEL: Final = 512
#: How many clusters are looked at before others get their turn.
_AT_ONCE: Final = 64
_INSTANCE: Final = b"\x0a\x08instance\x12"
_NO_INSTANCE: Final = b"\x0a\x0c" + _INSTANCE + b"\x00"
_SAMPLE: Final = struct.Struct("<xdq")

#: Gives a series other labels, or none.
Escape: TypeAlias = Callable[[list[bytes]], list[bytes] | None]


class Encoding(Protocol):
    """A format to show series in.

    Attributes:
        escaping: what is done with names that are not of the text format.
    """

    escaping: Escaping

    def begin(self, name: str, escape: Escape) -> None:
        """Begin a family.

        Args:
            name: its name, as it is shown.
            escape: gives a series labels that can be shown; None: it is left out.
        """

    def add(self, series: Sequence[Chosen]) -> bytes:
        """Return what to write for some series of the family."""
        ...

    def end(self) -> bytes:
        """Return what to write at the end of the family."""
        ...

    def close(self) -> bytes:
        """Return what to write at the end of everything."""
        ...


class Federation:
    """The series that at least one selector selects."""

    def __init__(self, store: Store, selectors: Sequence[Selector], encoding: Encoding) -> None:
        self._store = store
        # {} selects nothing, as in Prometheus.
        self._selectors = [_Choice(selector) for selector in selectors if selector.matchers]
        self._encoding = encoding

    def pieces(self) -> Iterator[bytes]:
        """Return the text or the messages, in pieces that take little time each; some are empty."""
        escaping = self._encoding.escaping
        families = Families(escaping)
        if escaping is not Escaping.NONE:
            for add in (families.add, families.add_plain):
                for names in self._names():
                    add(names)
                    yield b""
                if not families:
                    break
        for name, clusters in self._families():
            members = [name] if escaping is Escaping.NONE or not name else families.take(name)
            if members:
                having = clusters if members == [name] else self._store.clusters()
                yield from self._family(families.shown(name), members, having)
            else:
                yield b""
        yield self._encoding.close()

    def _family(
        self, shown: bytes, members: Sequence[bytes], clusters: Iterable[str]
    ) -> Iterator[bytes]:
        """Write a family, which may be that of several names."""
        chosen = {name: passes for name in members if (passes := self._passes(name)) is not None}
        if not chosen:
            yield b""
            return
        escaper = LabelEscaper(self._encoding.escaping, shown, chosen.get(shown))
        self._encoding.begin(shown.decode(), escaper.escape)
        for number, cluster in enumerate(clusters):
            found = self._store.cluster(cluster)
            if found is not None:
                escaper.turn_to(found)
                for name, passes in chosen.items():
                    for series in found.walk(name, passes):
                        if name != shown:
                            series = list(_escaped(series, escaper.escape))
                        yield self._encoding.add(series)
            elif number % _AT_ONCE == 0:
                yield b""
        yield self._encoding.end()

    def _names(self) -> Iterator[Iterable[bytes]]:
        """Return the metric names that there may be, some at a time."""
        exact = {choice.selector.exact_name for choice in self._selectors}
        if None in exact:
            yield from names_in_turns(map(self._store.cluster, self._store.clusters()))
        else:
            yield sorted(name.encode() for name in exact if name)

    def _families(self) -> Iterator[tuple[bytes, Sequence[str]]]:
        """Return the metric names in order, each with the clusters that may have it."""
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
        """Return what decides on the series of a metric name; None: no selector selects any."""
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


def _escaped(series: Iterable[Chosen], escape: Escape) -> Iterator[Chosen]:
    for labels, tail in series:
        own = escape(labels)
        if own is not None:
            yield own, tail


class _Choice:
    """A selector, with what it says of the metric name told apart from the rest."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self._names = [matcher for matcher in selector.matchers if matcher.name == NAME]
        self.others = [matcher for matcher in selector.matchers if matcher.name != NAME]

    def selects_name(self, name: str) -> bool:
        return all(matcher.matches(name) for matcher in self._names)


class Text:
    """The text format 0.0.4, or OpenMetrics.

    Native histograms have no such form. Names with other characters than the format's own are
    quoted for who knows that, and escaped for others.
    """

    def __init__(
        self, *, open_metrics: bool = False, escaping: Escaping = Escaping.UNDERSCORES
    ) -> None:
        """Make one.

        Args:
            open_metrics: whether it is OpenMetrics.
            escaping: what is done with names; `NONE`: the reader understands quoted ones.
        """
        self.escaping = escaping
        self._open_metrics = open_metrics
        self._escape: Escape = lambda labels: labels
        self._labels: dict[bytes, bytes | None] = {}
        self._samples: dict[bytes, bytes] = {}
        self._header = b""
        self._prefix = b""

    def begin(self, name: str, escape: Escape) -> None:
        self._escape = escape
        plain = is_plain_name(name)
        shown = name if plain else _quoted(name)
        kind = "unknown" if self._open_metrics else "untyped"
        self._header = f"# TYPE {shown} {kind}\n".encode()
        self._prefix = f"{shown}{{".encode() if plain else f"{{{shown},".encode()

    def add(self, series: Sequence[Chosen]) -> bytes:
        prefix = self._prefix
        lines = []
        others: list[Chosen] = []
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
                        others += _escaped([(labels, tail)], self._escape)
                        break
                if text.startswith(b'instance="'):
                    instance = True
                texts.append(text)
            else:
                if not instance:
                    texts.append(b'instance=""')
                lines.append(b"%b%b} %b\n" % (prefix, b",".join(texts), self._sample(tail)))
        if not lines:
            return self.add(others) if others else b""
        header, self._header = self._header, b""
        written = header + b"".join(lines)
        return written + self.add(others) if others else written

    def end(self) -> bytes:
        return b""

    def close(self) -> bytes:
        return b"# EOF\n" if self._open_metrics else b""

    def _label(self, encoded: bytes) -> bytes | None:
        """Return a label as it is written; None if it has to be escaped before."""
        name, value = label_of(encoded)
        if is_plain_label(name):
            text = f"{name}={_quoted(value)}".encode()
        elif self.escaping is Escaping.NONE:
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

    def __init__(self, *, escaping: Escaping = Escaping.UNDERSCORES) -> None:
        """Make one.

        Args:
            escaping: what is done with names that are not of the text format.
        """
        self.escaping = escaping
        self._escape: Escape = lambda labels: labels
        self._name = ""
        self._family = b""
        self._metrics: list[bytes] = []
        self._size = 0
        self._valid: dict[bytes, bool] = {}

    def begin(self, name: str, escape: Escape) -> None:
        self._name = name
        self._escape = escape
        encoded = name.encode()
        self._family = b"\x0a" + write_varint(len(encoded)) + encoded + b"\x18\x03"

    def add(self, series: Sequence[Chosen]) -> bytes:
        histograms = []
        others: list[Chosen] = []
        for labels, tail in series:
            if not all(map(self._is_valid, labels)):
                others += _escaped([(labels, tail)], self._escape)
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
        written = flushed + encode_families(histograms) if histograms else flushed
        return written + self.add(others) if others else written

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
        if self.escaping is Escaping.NONE:
            return True
        known = self._valid.get(label)
        if known is None:
            known = is_plain_label(label_of(label)[0])
            if len(self._valid) >= _MOST_REMEMBERED:
                self._valid.clear()
            if len(label) <= _LONG_LABEL:
                self._valid[label] = known
        return known

    def _histogram(self, name: str, labels: list[bytes], tail: bytes) -> metrics_pb2.MetricFamily:
        """Return a native histogram as its own family: they are rare, and may be of two types."""
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
