"""Series of remote write 2.0, written as a request of either version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Final

from telemeter.convert.classic import Budget, Fitter, count
from telemeter.convert.results import Written
from telemeter.convert.sieve import Labels, Pairs, Sieve
from telemeter.samples.errors import BadInputError
from telemeter.samples.proto import remote_pb2, write_v2_pb2
from telemeter.samples.selector import NAME

_V1 = remote_pb2.MetricMetadata
#: What the names of the series of a family end with, by the family's type.
_SUFFIXES: Final[dict[int, tuple[str, ...]]] = {
    _V1.HISTOGRAM: ("_bucket", "_count", "_sum"),
    _V1.GAUGEHISTOGRAM: ("_bucket", "_gcount", "_gsum", "_count", "_sum"),
    _V1.SUMMARY: ("_count", "_sum"),
}


class WriterV1:
    """A writer of 2.0 series as a 1.0 request."""

    def __init__(
        self, symbols: Sequence[str], sieve: Sieve, result: Written, *, keep_origins: bool
    ) -> None:
        self._symbols = symbols
        self._request = remote_pb2.WriteRequest()
        self._described: set[str] = set()
        self._budget = Budget()
        self._fitter = Fitter(sieve, result, self._budget, keep_origins=keep_origins)

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
            own = tuple(resolved(exemplar.labels_refs, self._symbols))
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


class WriterV2:
    """A writer of 2.0 series as a 2.0 request, with no symbols but those that its series need."""

    def __init__(self, symbols: Sequence[str], result: Written) -> None:
        self._symbols = symbols
        self._result = result
        self._request = write_v2_pb2.Request()
        self._references = {"": 0}

    def add(self, series: write_v2_pb2.TimeSeries, pairs: Pairs, labels: Labels) -> None:
        """Add a series; see `WriterV1.add`."""
        count(self._result, series)
        self._renumber(series.labels_refs, pairs)
        for exemplar in series.exemplars:
            self._renumber(
                exemplar.labels_refs, list(resolved(exemplar.labels_refs, self._symbols))
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


def resolved(references: Sequence[int], symbols: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the names and values that references stand for."""
    if len(references) % 2:
        raise BadInputError("labels_refs must hold pairs of name and value, one is left over")
    if references and max(references) >= len(symbols):
        raise BadInputError(
            f"a reference points at symbol {max(references)}, the table has {len(symbols)}"
        )
    texts = (symbols[reference] for reference in references)
    return zip(texts, texts, strict=True)
