"""Remote-write requests on their way through: docs/protocol.md, "Receive", 3 to 5.

Both versions of the protocol are checked, filtered and sanitized; what is not ours to judge passes
as it is. What 1.0 cannot hold gets a form that it can. Specifications:
https://prometheus.io/docs/specs/prw/remote_write_spec/ and
https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from telemeter.convert.classic import Budget, Fitter
from telemeter.convert.results import Written
from telemeter.convert.sieve import SHOWN, Labels, Sieve, WriteRules, shown
from telemeter.convert.writers import WriterV1, WriterV2, resolved
from telemeter.samples.errors import BadInputError, TooLargeError
from telemeter.samples.histogram import Histogram, check_histogram
from telemeter.samples.proto import remote_pb2, write_v2_pb2

#: A series with more labels or histograms than this is not looked at by itself.
_MOST_AT_ONCE: Final = 500


def sift_write(body: bytes, rules: WriteRules, *, most_series: int | None = None) -> Written:
    """Sift an encoded `prometheus.WriteRequest`, remote write 1.0.

    Empty labels are dropped, and of labels with one name the first is kept. Histograms must make
    sense, and those with custom buckets, which not every receiver of 1.0 knows, become classic
    ones. Everything else that the message holds passes bit for bit, fields that we do not know
    included.

    Args:
        body: the request.
        rules: what is demanded and done.
        most_series: how many series and histograms it may have; None: any number.

    Raises:
        BadInputError: the request is refused, with the reason.
    """
    request = _parsed(body)
    _check_count(request, most_series)
    result = Written()
    if not request.timeseries:
        result.only_metadata = bool(request.metadata)
        result.is_empty = not body
        return result
    sieve = Sieve(rules, result)
    fitter = Fitter(sieve, result, Budget(), keep_origins=rules.keep_origins)
    kept: list[remote_pb2.TimeSeries] = []
    is_same = True
    for series in request.timeseries:
        labels = _first_labels(series)
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


def _check_count(request: remote_pb2.WriteRequest | write_v2_pb2.Request, most: int | None) -> None:
    """Refuse more than can be looked at in a short time, one by one."""
    if most is None:
        return
    counts = {
        "series": len(request.timeseries),
        "histograms": sum(len(series.histograms) for series in request.timeseries),
    }
    for what, count in counts.items():
        if count > most:
            raise TooLargeError(
                f"the request has {count} {what}, {most} are the most (fixed) where some of its "
                "series are unusual: have over 128 labels, custom buckets, or fields out of order, "
                "for example",
                limit=most,
                seen=count,
            )


def _parsed(body: bytes) -> remote_pb2.WriteRequest:
    try:
        return remote_pb2.WriteRequest.FromString(body)
    except DecodeError:
        raise BadInputError("the body is not a prometheus.WriteRequest") from None


def _first_labels(series: remote_pb2.TimeSeries) -> Labels:
    """Return the labels that have a value, of those with one name the first."""
    labels: Labels = {}
    for label in series.labels:
        if label.name and label.value:
            labels.setdefault(label.name, label.value)
    return labels


def refuse_write(body: bytes, rules: WriteRules, version: int, index: int) -> None:
    """Refuse a request for the fault of one series, as `sift_write` and `sift_write_v2` would.

    That takes hardly longer than to parse the request, however many series it has. A very large
    series is left to those.

    Args:
        body: the request.
        rules: what is demanded and done.
        version: 1 or 2.
        index: which series it is; those before it pass.

    Raises:
        BadInputError: the request is refused, with the reason. Otherwise, that series passes.
    """
    sieve = Sieve(rules, Written())
    if version == 1:
        series = _parsed(body).timeseries[index]
        if max(len(series.labels), len(series.histograms)) > _MOST_AT_ONCE:
            return
        labels = _first_labels(series)
        _check_histograms(series.histograms, labels, is_kept=False)
        sieve.sift(labels, ())
        return
    request = _parsed_v2(body)
    symbols = request.symbols
    series_v2 = request.timeseries[index]
    exemplars = sum(len(each.labels_refs) for each in series_v2.exemplars)
    if max(len(series_v2.labels_refs), len(series_v2.histograms), exemplars) > _MOST_AT_ONCE:
        return
    labels = _resolved_labels(series_v2.labels_refs, symbols)
    _check_series(series_v2, labels, symbols, is_kept=False)
    if series_v2.samples or series_v2.histograms or series_v2.exemplars:
        sieve.sift({name: value for name, value in labels.items() if value}, ())


def sift_write_v2(
    body: bytes, rules: WriteRules, *, keep_version: bool = False, most_series: int | None = None
) -> Written:
    """Sift an encoded `io.prometheus.write.v2.Request`, remote write 2.0.

    Args:
        body: the request.
        rules: what is demanded and done.
        keep_version: whether the result is a 2.0 request too, rather than one of 1.0 that holds all
            that 1.0 can carry.
        most_series: how many series and histograms it may have; None: any number.

    Raises:
        BadInputError: the request is refused, with the reason.
    """
    request = _parsed_v2(body)
    _check_count(request, most_series)
    result = Written()
    sieve = Sieve(rules, result)
    symbols = list(request.symbols)
    writer = (
        WriterV2(symbols, result)
        if keep_version
        else WriterV1(symbols, sieve, result, keep_origins=rules.keep_origins)
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


def _parsed_v2(body: bytes) -> write_v2_pb2.Request:
    try:
        return write_v2_pb2.Request.FromString(body)
    except DecodeError:
        raise BadInputError("the body is not an io.prometheus.write.v2.Request") from None


def _size_of_symbols(symbols: Iterable[str]) -> int:
    """Return the size of a request that holds symbols and nothing else, not even unknown fields."""
    return write_v2_pb2.Request(symbols=symbols).ByteSize()


def _stamps(series: remote_pb2.TimeSeries | write_v2_pb2.TimeSeries) -> list[int]:
    return [
        *(sample.timestamp for sample in series.samples),
        *(histogram.timestamp for histogram in series.histograms),
    ]


def _resolved_labels(references: Sequence[int], symbols: Sequence[str]) -> Labels:
    labels: Labels = {}
    for name, value in resolved(references, symbols):
        if not name:
            raise BadInputError(f"a series has a label without a name: {shown(labels)}")
        if name in labels:
            raise BadInputError(f"a series has the label {name[:SHOWN]!r} twice: {shown(labels)}")
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
        for _ in resolved(exemplar.labels_refs, symbols):
            pass
    if max(series.metadata.help_ref, series.metadata.unit_ref) >= max(1, len(symbols)):
        raise BadInputError(f"metadata points outside the table of symbols: {shown(labels)}")


def _check_histograms(histograms: Iterable[Histogram], labels: Labels, *, is_kept: bool) -> None:
    for histogram in histograms:
        try:
            check_histogram(histogram, is_kept=is_kept)
        except BadInputError as error:
            raise BadInputError(f"a histogram is not valid: {error}: {shown(labels)}") from None
