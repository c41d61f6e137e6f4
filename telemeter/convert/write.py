"""Remote-write requests on their way through: docs/protocol.md, "Receive", 3 to 5.

Both versions of the protocol are checked, filtered and sanitized; what is not ours to judge passes
as it is. What 1.0 cannot hold gets a form that it can. Specifications:
https://prometheus.io/docs/specs/prw/remote_write_spec/ and
https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from telemeter.convert.dropped import Examples
from telemeter.convert.upload import MAX_OUTPUT
from telemeter.samples.errors import BadInputError, BecomesTooLargeError
from telemeter.samples.histogram import (
    Histogram,
    bucket_texts,
    check_histogram,
    classic_points,
    is_stale,
    is_too_fine,
    make_coarser,
)
from telemeter.samples.proto import remote_pb2, write_v2_pb2
from telemeter.samples.selector import NAME
from telemeter.samples.series import CUSTOM_BUCKETS
from telemeter.samples.whitelist import Whitelist

Labels: TypeAlias = dict[str, str]
Pairs: TypeAlias = tuple[tuple[str, str], ...]

_SHOWN: Final = 200
#: What a series of a classic histogram takes beside its labels, and what a sample takes, in bytes.
_SERIES_BYTES: Final = 32
_SAMPLE_BYTES: Final = 16
_BOUND_BYTES: Final = 8
_V1 = remote_pb2.MetricMetadata
#: What the names of the series of a family end with, by the family's type.
_SUFFIXES: Final[dict[int, tuple[str, ...]]] = {
    _V1.HISTOGRAM: ("_bucket", "_count", "_sum"),
    _V1.GAUGEHISTOGRAM: ("_bucket", "_gcount", "_gsum", "_count", "_sum"),
    _V1.SUMMARY: ("_count", "_sum"),
}


class MissingLabelError(BadInputError):
    """A series does not carry the partition label."""


class ForeignIdError(BadInputError):
    """A series carries another cluster's identifier."""


@dataclass(frozen=True, slots=True)
class WriteRules:
    """The demands on every series, and the changes to it.

    Attributes:
        whitelist: what may pass.
        elided: names of the labels to remove.
        partition_label: the label that every series must carry.
        cluster: the value that it must have; None: any.
        keep_origins: whether a histogram that becomes a classic one leaves its origin with it, for
            who has to know which series go with it: a series with its labels, and a histogram with
            nothing but time, schema and bounds; and with its sum, if that marks its end.
    """

    whitelist: Whitelist = field(default_factory=Whitelist)
    elided: frozenset[str] = frozenset()
    partition_label: str = "_id"
    cluster: str | None = None
    keep_origins: bool = False


@dataclass(slots=True)
class Written:
    """The result of converting a remote-write request.

    Attributes:
        payload: the encoded request; empty when nothing is left to forward.
        received: how many series the request held.
        series: how many of them are left.
        dropped: how many no whitelist rule allowed.
        duplicates: how many were left out because another had become identical; each series of a
            classic histogram counts.
        samples, histograms, exemplars: how many of each are left; a histogram that becomes a
            classic one is one, if none of its series was left out.
        only_metadata: whether the request held metadata and no series.
        dropped_examples: of what was dropped, see `Examples`.
        is_empty: whether the request held nothing at all.
    """

    payload: bytes = b""
    received: int = 0
    series: int = 0
    dropped: int = 0
    duplicates: int = 0
    samples: int = 0
    histograms: int = 0
    exemplars: int = 0
    only_metadata: bool = False
    dropped_examples: tuple[bytes, ...] = ()
    is_empty: bool = False


class _Sieve:
    """Decides on series one by one, and remembers which label sets it has let pass."""

    def __init__(self, rules: WriteRules, result: Written) -> None:
        self._rules = rules
        self._result = result
        self._examples = Examples()
        self._seen: dict[Pairs, tuple[Pairs, set[int]]] = {}

    def sift(self, labels: Labels, stamps: Sequence[int]) -> Pairs | None:
        """Return the labels that a series goes on with, sorted; None if it does not go on.

        Args:
            labels: of labels with one name the first, none with an empty value.
            stamps: the timestamps of its samples.

        Raises:
            BadInputError: the whole request is refused.
        """
        rules, result = self._rules, self._result
        result.received += 1
        if NAME not in labels:
            raise BadInputError(f"a series has no metric name (label {NAME}): {shown(labels)}")
        cluster = labels.get(rules.partition_label)
        if cluster is None:
            raise MissingLabelError(
                f"a series lacks the label {rules.partition_label}: {shown(labels)}"
            )
        if rules.cluster is not None and cluster != rules.cluster:
            raise ForeignIdError(
                f"the label {rules.partition_label} must be the cluster_id of the token, "
                f"{rules.cluster!r}: {shown(labels)}"
            )
        if not rules.whitelist.allows(labels):
            result.dropped += 1
            self._examples.add(labels)
            result.dropped_examples = self._examples.found
            return None
        original = tuple(sorted(labels.items()))
        kept = self.claim(original, original, stamps)
        if kept is not None:
            result.series += 1
        return kept

    def claim(self, pairs: Pairs, original: Pairs, stamps: Sequence[int]) -> Pairs | None:
        """Return the labels that a series goes on with; None if it is a duplicate.

        Args:
            pairs: its labels, sorted.
            original: what tells it from others that become identical.
            stamps: the timestamps of its samples.
        """
        kept = tuple(pair for pair in pairs if pair[0] not in self._rules.elided)
        if self._is_duplicate(kept, original, stamps):
            self._result.duplicates += 1
            return None
        return kept

    def _is_duplicate(self, kept: Pairs, original: Pairs, stamps: Sequence[int]) -> bool:
        """Whether the upstream would find a series in conflict with an earlier one.

        A sender may well repeat a series in one request, with other timestamps: Prometheus does so
        when it has fallen behind. But two series that only became identical here must not mix.
        """
        first, known = self._seen.setdefault(kept, (original, set()))
        if first != original or (stamps and known.issuperset(stamps)):
            return True
        known.update(stamps)
        return False


class _Budget:
    """A bound on what a request becomes.

    References to a few long symbols, and histograms with many buckets, could make gigabytes of it.
    """

    def __init__(self) -> None:
        self._spent = 0

    def spend(self, size: int) -> None:
        self._spent += size
        if self._spent > MAX_OUTPUT:
            raise BecomesTooLargeError(
                f"the request becomes more than {MAX_OUTPUT} bytes of labels and samples, "
                f"{self._spent} or more: this limit is fixed; send fewer series at once",
                limit=MAX_OUTPUT,
                seen=self._spent,
            )

    def spend_on(self, pairs: Pairs) -> None:
        self.spend(_size(pairs))


def _size(pairs: Pairs) -> int:
    return sum(len(name) + len(value) for name, value in pairs)


class _Fitter:
    """A converter of histograms that 1.0 cannot hold; it counts what goes on.

    One with custom buckets becomes the classic histogram that it is: series with its labels, which
    conflict with others as if they had come so.
    """

    def __init__(
        self, sieve: _Sieve, result: Written, budget: _Budget, *, keep_origins: bool
    ) -> None:
        self._sieve = sieve
        self._result = result
        self._budget = budget
        self._keep_origins = keep_origins
        # The bounds and the names of the buckets of what became classic. Prometheus sends
        # exemplars in series of their own, behind the histogram that they belong to.
        self._buckets: dict[Pairs, tuple[list[float], list[str]]] = {}

    def fit(self, series: remote_pb2.TimeSeries, labels: Labels) -> list[remote_pb2.TimeSeries]:
        """Return what a series that may pass goes on as: mostly itself, and then not changed.

        Args:
            series: it, with the labels that it goes on with; it may be changed.
            labels: the labels that it came with, none with an empty value.

        Raises:
            BadInputError: the whole request is refused.
        """
        for histogram in series.histograms:
            if is_too_fine(histogram):
                make_coarser(histogram)
        custom = [each for each in series.histograms if each.schema == CUSTOM_BUCKETS]
        is_only_custom = len(custom) == len(series.histograms) and not series.samples
        if custom or (self._buckets and is_only_custom):
            original = tuple(sorted(labels.items()))
            if custom:
                self._buckets[original] = (list(custom[-1].custom_values), bucket_texts(custom[-1]))
            if original in self._buckets:
                exemplars = series.exemplars if is_only_custom else ()
                classic = self._classic(labels, original, custom, exemplars)
                origins = self._origins(series, custom) if self._keep_origins and classic else []
                if is_only_custom:
                    self._result.series -= not classic
                    return [*origins, *classic]
                others = [each for each in series.histograms if each.schema != CUSTOM_BUCKETS]
                del series.histograms[:]
                series.histograms.extend(others)
                _count(self._result, series)
                return [series, *origins, *classic]
        _count(self._result, series)
        return [series]

    def _classic(
        self,
        labels: Labels,
        original: Pairs,
        histograms: Sequence[remote_pb2.Histogram],
        exemplars: Iterable[remote_pb2.Exemplar],
    ) -> list[remote_pb2.TimeSeries]:
        """Return the series of classic histograms, each exemplar in the bucket of its value."""
        parts: dict[tuple[str, str | None], remote_pb2.TimeSeries] = {}
        size = _size(original) + _SERIES_BYTES
        for histogram in histograms:
            for suffix, le, value in classic_points(histogram):
                self._budget.spend(_SAMPLE_BYTES if (suffix, le) in parts else size + _SAMPLE_BYTES)
                part = parts.setdefault((suffix, le), remote_pb2.TimeSeries())
                part.samples.add(value=value, timestamp=histogram.timestamp)
        bounds, texts = self._buckets[original]
        for exemplar in exemplars:
            number = (
                len(bounds) if math.isnan(exemplar.value) else bisect_left(bounds, exemplar.value)
            )
            self._budget.spend(size)
            part = parts.setdefault(("_bucket", texts[number]), remote_pb2.TimeSeries())
            part.exemplars.append(exemplar)
        left = []
        encoded: dict[tuple[str, str], bytes] = {}
        for (suffix, le), part in parts.items():
            own = {**labels, NAME: labels[NAME] + suffix}
            if le is not None:
                own["le"] = le
            # Nothing that came so has a label without a name.
            stamps = [sample.timestamp for sample in part.samples]
            pairs = self._sieve.claim(tuple(sorted(own.items())), (*original, ("", "")), stamps)
            if pairs is not None:
                # All but one or two labels are the same in every part.
                for pair in pairs:
                    if pair not in encoded:
                        encoded[pair] = _encoded(pair)
                part.MergeFromString(b"".join([encoded[pair] for pair in pairs]))
                left.append(part)
                self._result.exemplars += len(part.exemplars)
        if len(left) == len(parts):
            self._result.histograms += len(histograms)
        return left

    def _origins(
        self, series: remote_pb2.TimeSeries, histograms: Iterable[remote_pb2.Histogram]
    ) -> list[remote_pb2.TimeSeries]:
        """Return the origins of classic histograms (see `WriteRules`), each in its own series."""
        origins = []
        size = sum(len(label.name) + len(label.value) for label in series.labels) + _SERIES_BYTES
        for histogram in histograms:
            self._budget.spend(size + _BOUND_BYTES * len(histogram.custom_values))
            origin = remote_pb2.TimeSeries(labels=series.labels)
            origin.histograms.add(
                schema=CUSTOM_BUCKETS,
                custom_values=histogram.custom_values,
                sum=histogram.sum if is_stale(histogram) else 0.0,
                timestamp=histogram.timestamp,
            )
            origins.append(origin)
        return origins


def _encoded(pair: tuple[str, str]) -> bytes:
    """Return a label as a field of a series."""
    series = remote_pb2.TimeSeries()
    series.labels.add(name=pair[0], value=pair[1])
    return series.SerializeToString()


def sift_write(body: bytes, rules: WriteRules) -> Written:
    """Sift an encoded `prometheus.WriteRequest`, remote write 1.0.

    Empty labels are dropped, and of labels with one name the first is kept. Histograms must make
    sense, and those with custom buckets, which not every receiver of 1.0 knows, become classic
    ones. Everything else that the message holds passes bit for bit, fields that we do not know
    included.

    Raises:
        BadInputError: the request is refused, with the reason.
    """
    try:
        request = remote_pb2.WriteRequest.FromString(body)
    except DecodeError:
        raise BadInputError("the body is not a prometheus.WriteRequest") from None
    result = Written()
    if not request.timeseries:
        result.only_metadata = bool(request.metadata)
        result.is_empty = not body
        return result
    sieve = _Sieve(rules, result)
    fitter = _Fitter(sieve, result, _Budget(), keep_origins=rules.keep_origins)
    kept: list[remote_pb2.TimeSeries] = []
    is_same = True
    for series in request.timeseries:
        labels: Labels = {}
        for label in series.labels:
            if label.name and label.value:
                labels.setdefault(label.name, label.value)
        _check_histograms(series.histograms, labels, is_kept=False)
        pairs = sieve.sift(labels, _stamps(series))
        if pairs is None:
            is_same = False
            continue
        if [(label.name, label.value) for label in series.labels] != list(pairs):
            del series.labels[:]
            for name, value in pairs:
                series.labels.add(name=name, value=value)
        left = fitter.fit(series, labels)
        is_same = is_same and len(left) == 1 and left[0] is series
        kept += left
    if kept:
        if not is_same:
            del request.timeseries[:]
            request.timeseries.extend(kept)
        result.payload = request.SerializeToString()
    return result


def sift_write_v2(body: bytes, rules: WriteRules, *, keep_version: bool = False) -> Written:
    """Sift an encoded `io.prometheus.write.v2.Request`, remote write 2.0.

    Args:
        body: the request.
        rules: what is demanded and done.
        keep_version: whether the result is a 2.0 request too, rather than one of 1.0 that holds all
            that 1.0 can carry.

    Raises:
        BadInputError: the request is refused, with the reason.
    """
    try:
        request = write_v2_pb2.Request.FromString(body)
    except DecodeError:
        raise BadInputError("the body is not an io.prometheus.write.v2.Request") from None
    result = Written()
    sieve = _Sieve(rules, result)
    symbols = list(request.symbols)
    writer = (
        _WriterV2(symbols, result)
        if keep_version
        else _WriterV1(symbols, sieve, result, keep_origins=rules.keep_origins)
    )
    described = False
    for series in request.timeseries:
        labels = _resolved_labels(series.labels_refs, symbols)
        _check_series(series, labels, symbols, is_kept=keep_version)
        if not (series.samples or series.histograms or series.exemplars):
            described = True
            continue
        present = {name: value for name, value in labels.items() if value}
        pairs = sieve.sift(present, _stamps(series))
        if pairs is not None:
            writer.add(series, pairs, present)
    if result.series:
        result.payload = writer.payload()
    result.only_metadata = described and not result.received
    result.is_empty = not request.timeseries and request.ByteSize() == _size_of_symbols(symbols)
    return result


def _size_of_symbols(symbols: Iterable[str]) -> int:
    """Return the size of a request that holds symbols and nothing else, not even unknown fields."""
    return write_v2_pb2.Request(symbols=symbols).ByteSize()


def _stamps(series: remote_pb2.TimeSeries | write_v2_pb2.TimeSeries) -> list[int]:
    return [
        *(sample.timestamp for sample in series.samples),
        *(histogram.timestamp for histogram in series.histograms),
    ]


def _count(result: Written, series: remote_pb2.TimeSeries | write_v2_pb2.TimeSeries) -> None:
    result.samples += len(series.samples)
    result.histograms += len(series.histograms)
    result.exemplars += len(series.exemplars)


def _resolved(references: Sequence[int], symbols: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the names and values that references stand for."""
    if len(references) % 2:
        raise BadInputError("labels_refs must hold pairs of name and value, one is left over")
    if references and max(references) >= len(symbols):
        raise BadInputError(
            f"a reference points at symbol {max(references)}, the table has {len(symbols)}"
        )
    texts = (symbols[reference] for reference in references)
    return zip(texts, texts, strict=True)


def _resolved_labels(references: Sequence[int], symbols: Sequence[str]) -> Labels:
    labels: Labels = {}
    for name, value in _resolved(references, symbols):
        if not name:
            raise BadInputError(f"a series has a label without a name: {shown(labels)}")
        if name in labels:
            raise BadInputError(f"a series has the label {name[:_SHOWN]!r} twice: {shown(labels)}")
        labels[name] = value
    return labels


def _check_series(
    series: write_v2_pb2.TimeSeries, labels: Labels, symbols: Sequence[str], *, is_kept: bool
) -> None:
    # By the text of the specification a series must have a sample or a histogram. But Prometheus
    # itself sends each exemplar in a series of its own: to refuse that would cost it its samples.
    if not (series.samples or series.histograms or series.exemplars or series.metadata.ByteSize()):
        raise BadInputError(f"a series has nothing but labels: {shown(labels)}")
    _check_histograms(series.histograms, labels, is_kept=is_kept)
    for exemplar in series.exemplars:
        for _ in _resolved(exemplar.labels_refs, symbols):
            pass
    if max(series.metadata.help_ref, series.metadata.unit_ref) >= max(1, len(symbols)):
        raise BadInputError(f"metadata points outside the table of symbols: {shown(labels)}")


def _check_histograms(histograms: Iterable[Histogram], labels: Labels, *, is_kept: bool) -> None:
    for histogram in histograms:
        try:
            check_histogram(histogram, is_kept=is_kept)
        except BadInputError as error:
            raise BadInputError(f"a histogram is not valid: {error}: {shown(labels)}") from None


class _WriterV1:
    """Writes 2.0 series as a 1.0 request."""

    def __init__(
        self, symbols: Sequence[str], sieve: _Sieve, result: Written, *, keep_origins: bool
    ) -> None:
        self._symbols = symbols
        self._request = remote_pb2.WriteRequest()
        self._described: set[str] = set()
        self._budget = _Budget()
        self._fitter = _Fitter(sieve, result, self._budget, keep_origins=keep_origins)

    def add(self, series: write_v2_pb2.TimeSeries, pairs: Pairs, labels: Labels) -> None:
        """Add a series.

        Args:
            series: it.
            pairs: the labels that it goes on with, sorted.
            labels: those that it came with.
        """
        self._budget.spend_on(pairs)
        target = remote_pb2.TimeSeries()
        for name, value in pairs:
            target.labels.add(name=name, value=value)
        for sample in series.samples:
            target.samples.add(value=sample.value, timestamp=sample.timestamp)
        for histogram in series.histograms:
            # The same encoding, but for the start timestamp, which 1.0 does not know.
            copy = target.histograms.add()
            copy.MergeFromString(histogram.SerializeToString())
            copy.DiscardUnknownFields()
        for exemplar in series.exemplars:
            other = target.exemplars.add(value=exemplar.value, timestamp=exemplar.timestamp)
            own = tuple(_resolved(exemplar.labels_refs, self._symbols))
            self._budget.spend_on(own)
            for name, value in own:
                other.labels.add(name=name, value=value)
        left = self._fitter.fit(target, labels)
        self._request.timeseries.extend(left)
        if left:
            self._describe(series, dict(pairs).get(NAME, ""))

    def _describe(self, series: write_v2_pb2.TimeSeries, name: str) -> None:
        """Write the metadata of a series, unless there was some of its family before."""
        metadata = series.metadata
        if not metadata.ByteSize():
            return
        if not series.histograms:
            name = _family_name(name, metadata.type)
        if name in self._described:
            return
        self._described.add(name)
        description = self._symbols[metadata.help_ref] if self._symbols else ""
        unit = self._symbols[metadata.unit_ref] if self._symbols else ""
        self._budget.spend_on(((description, unit),))
        self._request.metadata.add(
            type=metadata.type, metric_family_name=name, help=description, unit=unit
        )

    def payload(self) -> bytes:
        return self._request.SerializeToString()


class _WriterV2:
    """Writes 2.0 series as a 2.0 request, with no symbols but those that its series need."""

    def __init__(self, symbols: Sequence[str], result: Written) -> None:
        self._symbols = symbols
        self._result = result
        self._request = write_v2_pb2.Request()
        self._references = {"": 0}

    def add(self, series: write_v2_pb2.TimeSeries, pairs: Pairs, labels: Labels) -> None:
        """Add a series; see `_WriterV1.add`."""
        _count(self._result, series)
        self._renumber(series.labels_refs, pairs)
        for exemplar in series.exemplars:
            self._renumber(
                exemplar.labels_refs, list(_resolved(exemplar.labels_refs, self._symbols))
            )
        if series.HasField("metadata") and self._symbols:
            metadata = series.metadata
            metadata.help_ref = self._reference(self._symbols[metadata.help_ref])
            metadata.unit_ref = self._reference(self._symbols[metadata.unit_ref])
        self._request.timeseries.append(series)

    def _renumber(self, references: MutableSequence[int], pairs: Iterable[tuple[str, str]]) -> None:
        references[:] = [self._reference(text) for pair in pairs for text in pair]

    def _reference(self, text: str) -> int:
        return self._references.setdefault(text, len(self._references))

    def payload(self) -> bytes:
        self._request.symbols.extend(self._references)
        return self._request.SerializeToString()


def _family_name(name: str, kind: int) -> str:
    """Return the name of the family of a series with one number: 1.0 describes families."""
    for suffix in _SUFFIXES.get(kind, ()):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


def shown(labels: Labels) -> str:
    """Return a series as text for a message, cut short."""
    text = "{"
    for name, value in labels.items():
        text += f"{', ' if len(text) > 1 else ''}{name[:_SHOWN]}={value[:_SHOWN]!r}"
        if len(text) > _SHOWN:  # not all of it first: symbols can make it gigabytes
            return text[:_SHOWN] + "..."
    return text + "}"
