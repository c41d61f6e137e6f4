"""Remote-write requests on their way through: specification section 5, steps 3 to 5.

Both versions of the protocol are checked, filtered and sanitized; what is not ours to judge passes
as it is. Specifications: https://prometheus.io/docs/specs/prw/remote_write_spec/ and
https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from telemeter.metrics.dropped import Examples
from telemeter.metrics.errors import BadInputError, TooLargeError
from telemeter.metrics.histogram import check_histogram
from telemeter.metrics.proto import remote_pb2, write_v2_pb2
from telemeter.metrics.selector import NAME
from telemeter.metrics.upload import MAX_OUTPUT
from telemeter.metrics.whitelist import Whitelist

Labels: TypeAlias = dict[str, str]
Pairs: TypeAlias = tuple[tuple[str, str], ...]

_SHOWN: Final = 200


class MissingLabelError(BadInputError):
    """A series does not carry the partition label."""


class ForeignIdError(BadInputError):
    """A series carries another cluster's identifier."""


@dataclass(frozen=True, slots=True)
class WriteRules:
    """What is demanded of every series, and done with it.

    Attributes:
        whitelist: what may pass.
        elided: names of the labels to remove.
        partition_label: the label that every series must carry.
        cluster: the value that it must have; None: any.
    """

    whitelist: Whitelist = field(default_factory=Whitelist)
    elided: frozenset[str] = frozenset()
    partition_label: str = "_id"
    cluster: str | None = None


@dataclass(slots=True)
class Written:
    """What is left of a request.

    Attributes:
        payload: the encoded request; empty when nothing is left to forward.
        received: how many series the request held.
        series: how many are left.
        dropped: how many no whitelist rule allowed.
        duplicates: how many were left out because another had become identical.
        samples, histograms, exemplars: how many of each are left.
        only_metadata: whether the request held metadata and no series.
        dropped_examples: of what was dropped, see `Examples`.
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


class _Sieve:
    """Decides on series one by one, and remembers which label sets it has let pass."""

    def __init__(self, rules: WriteRules, result: Written) -> None:
        self._rules = rules
        self._result = result
        self._examples = Examples()
        self._seen: dict[Pairs, tuple[Pairs, set[int]]] = {}

    def sift(self, labels: Labels, stamps: Sequence[int]) -> Pairs | None:
        """The labels that a series goes on with, sorted; None if it does not go on.

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
        kept = tuple(pair for pair in original if pair[0] not in rules.elided)
        if self._is_duplicate(kept, original, stamps):
            result.duplicates += 1
            return None
        result.series += 1
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


def sift_write(body: bytes, rules: WriteRules) -> Written:
    """Sift an encoded `prometheus.WriteRequest`, remote write 1.0.

    Empty labels are dropped, and of labels with one name the first is kept. Everything else that
    the message holds passes bit for bit, fields that we do not know included.

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
        return result
    sieve = _Sieve(rules, result)
    kept = []
    for series in request.timeseries:
        labels: Labels = {}
        for label in series.labels:
            if label.name and label.value:
                labels.setdefault(label.name, label.value)
        pairs = sieve.sift(labels, _stamps(series))
        if pairs is None:
            continue
        if [(label.name, label.value) for label in series.labels] != list(pairs):
            del series.labels[:]
            for name, value in pairs:
                series.labels.add(name=name, value=value)
        _count(result, series)
        kept.append(series)
    if kept:
        if len(kept) < len(request.timeseries):
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
    writer = _WriterV2(symbols) if keep_version else _WriterV1(symbols)
    described = False
    for series in request.timeseries:
        labels = _resolved_labels(series.labels_refs, symbols)
        _check_series(series, labels, symbols)
        if not (series.samples or series.histograms or series.exemplars):
            described = True
            continue
        present = {name: value for name, value in labels.items() if value}
        pairs = sieve.sift(present, _stamps(series))
        if pairs is not None:
            _count(result, series)
            writer.add(series, pairs)
    if result.series:
        result.payload = writer.payload()
    result.only_metadata = described and not result.received
    return result


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
    """The names and values that references stand for."""
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


def _check_series(series: write_v2_pb2.TimeSeries, labels: Labels, symbols: Sequence[str]) -> None:
    # By the text of the specification a series must have a sample or a histogram. But Prometheus
    # itself sends each exemplar in a series of its own: to refuse that would cost it its samples.
    if not (series.samples or series.histograms or series.exemplars or series.metadata.ByteSize()):
        raise BadInputError(f"a series has nothing but labels: {shown(labels)}")
    for histogram in series.histograms:
        try:
            check_histogram(histogram)
        except BadInputError as error:
            raise BadInputError(f"a histogram is not valid: {error}: {shown(labels)}") from None
    for exemplar in series.exemplars:
        for _ in _resolved(exemplar.labels_refs, symbols):
            pass
    if max(series.metadata.help_ref, series.metadata.unit_ref) >= max(1, len(symbols)):
        raise BadInputError(f"metadata points outside the table of symbols: {shown(labels)}")


class _WriterV1:
    """Writes 2.0 series as a 1.0 request."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = symbols
        self._request = remote_pb2.WriteRequest()
        self._described: set[str] = set()
        self._output = 0

    def add(self, series: write_v2_pb2.TimeSeries, pairs: Pairs) -> None:
        self._spend(pairs)
        target = self._request.timeseries.add()
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
            self._spend(own)
            for name, value in own:
                other.labels.add(name=name, value=value)
        self._describe(series.metadata, dict(pairs).get(NAME, ""))

    def _spend(self, pairs: Pairs) -> None:
        """Bound what references to a few long symbols may become."""
        self._output += sum(len(name) + len(value) for name, value in pairs)
        if self._output > MAX_OUTPUT:
            raise TooLargeError(
                f"the request becomes more than {MAX_OUTPUT} bytes of labels",
                limit=MAX_OUTPUT,
                seen=self._output,
            )

    def _describe(self, metadata: write_v2_pb2.Metadata, name: str) -> None:
        if not metadata.ByteSize() or name in self._described:
            return
        self._described.add(name)
        description = self._symbols[metadata.help_ref] if self._symbols else ""
        unit = self._symbols[metadata.unit_ref] if self._symbols else ""
        self._spend(((description, unit),))
        self._request.metadata.add(
            type=metadata.type, metric_family_name=name, help=description, unit=unit
        )

    def payload(self) -> bytes:
        return self._request.SerializeToString()


class _WriterV2:
    """Writes 2.0 series as a 2.0 request, with no symbols but those that its series need."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = symbols
        self._request = write_v2_pb2.Request()
        self._references = {"": 0}

    def add(self, series: write_v2_pb2.TimeSeries, pairs: Pairs) -> None:
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


def shown(labels: Labels) -> str:
    """A series for a message, cut short."""
    text = "{"
    for name, value in labels.items():
        text += f"{', ' if len(text) > 1 else ''}{name[:_SHOWN]}={value[:_SHOWN]!r}"
        if len(text) > _SHOWN:  # not all of it first: symbols can make it gigabytes
            return text[:_SHOWN] + "..."
    return text + "}"
