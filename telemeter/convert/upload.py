"""From an agent's upload to a remote-write request: docs/protocol.md, "Upload", 4 to 9."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from telemeter.convert.dropped import Examples
from telemeter.convert.results import Converted
from telemeter.samples.errors import BadInputError, BecomesTooLargeError
from telemeter.samples.family import (
    MAX_AGE_MS,
    VALUE_FIELD,
    Family,
    Metric,
    holds_its_type,
    is_too_long,
)
from telemeter.samples.format import Decoder
from telemeter.samples.histogram import checked_native
from telemeter.samples.limits import MAX_NAME_LENGTH, MAX_OUTPUT, SERIES_BYTES
from telemeter.samples.proto import metrics_pb2, remote_pb2
from telemeter.samples.selector import NAME
from telemeter.samples.series import parts_of
from telemeter.samples.whitelist import Whitelist

#: Within how many milliseconds of now a timestamp counts as present.
DRIFT_MS: Final = 5 * 60 * 1000
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class UploadRules:
    """The rules for every upload.

    Attributes:
        whitelist: what may pass.
        labels: labels to add; one that is there already is overwritten.
        elided: names of the labels to remove.
        keep_times: whether the samples keep their own timestamps, however old, rather than get the
            time of the conversion.
    """

    whitelist: Whitelist = field(default_factory=Whitelist)
    labels: Mapping[str, str] = field(default_factory=dict)
    elided: frozenset[str] = frozenset()
    keep_times: bool = False


def convert_upload(
    body: bytes,
    decode: Decoder,
    required: Mapping[str, str],
    rules: UploadRules,
    now_ms: int,
) -> Converted:
    """Decode, validate, filter, label and convert one upload.

    Args:
        body: the decompressed body.
        decode: the decoder of its format.
        required: the labels that every sample must carry, with their values.
        rules: what the server is configured to do.
        now_ms: the time, in milliseconds since the epoch; every sample gets it as its timestamp,
            unless the rules say otherwise.

    Raises:
        BadInputError: the upload is refused, with the reason.
    """
    return _Conversion(required, rules, now_ms, most_output(body)).run(decode(body))


def most_output(body: bytes) -> int:
    """Return how many bytes of series an upload may become: a large one twice its own size."""
    return max(MAX_OUTPUT, 2 * len(body))


class _Conversion:
    """One run over the families of an upload."""

    def __init__(
        self, required: Mapping[str, str], rules: UploadRules, now_ms: int, limit: int
    ) -> None:
        self._required = required
        self._rules = rules
        self._now = now_ms
        self._limit = limit
        self._request = remote_pb2.WriteRequest()
        self._seen: set[tuple[tuple[str, str], ...]] = set()
        self._output = 0
        self._examples = Examples()
        self._result = Converted()

    def run(self, families: list[Family]) -> Converted:
        for family in families:
            if family.name and family.HasField("type") and family.metric:
                self._take_family(family)
        self._result.payload = self._request.SerializeToString()
        self._result.series = len(self._request.timeseries)
        self._result.dropped_examples = self._examples.found
        return self._result

    def _take_family(self, family: Family) -> None:
        if is_too_long(family.name):
            raise BadInputError(
                f"a metric name may have {MAX_NAME_LENGTH} bytes, this one has more: "
                f"{family.name[:_SHOWN]!r}..."
            )
        if family.type not in VALUE_FIELD:
            _refuse(family, f"metric type {family.type} is not known")
        previous = family.metric[0].timestamp_ms
        for metric in family.metric:
            labels = self._checked_labels(family, metric)
            self._check_sample(family, metric, previous)
            native = self._checked_native(family, metric)
            previous = metric.timestamp_ms
            self._count_drift(previous)
            if not self._convert(family, metric, labels, native):
                self._result.dropped += 1
                self._examples.add(labels)
        self._result.received += len(family.metric)
        self._result.newest_ms = max(self._result.newest_ms, previous)

    def _checked_labels(self, family: Family, metric: Metric) -> dict[str, str]:
        """Return the labels with the metric's name first; of labels with one name, the first.

        An empty label is no label.
        """
        labels = {NAME: family.name}
        for pair in metric.label:
            name, value = pair.name, pair.value
            if name == NAME:
                _refuse(family, f"a label may not be named {NAME}")
            if is_too_long(name) or is_too_long(value):
                _refuse(
                    family,
                    f"label {name[:_SHOWN]!r}: its name and its value may have "
                    f"{MAX_NAME_LENGTH} bytes each",
                )
            if name and value:
                labels.setdefault(name, value)
        for name, value in self._required.items():
            seen = labels.get(name, "")
            if seen != value:
                if not seen:
                    _refuse(family, f"a required label is missing: {name}={value!r}")
                _refuse(family, f"label {name} must be {value!r}, it is {seen!r}")
        return labels

    def _check_sample(self, family: Family, metric: Metric, previous_ms: int) -> None:
        if not metric.HasField("timestamp_ms"):
            _refuse(family, "a sample has no timestamp")
        stamp = metric.timestamp_ms
        if stamp < previous_ms:
            _refuse(family, "the samples are not in increasing order of their timestamps")
        if stamp < self._now - MAX_AGE_MS and not self._rules.keep_times:
            _refuse(family, "a timestamp is over 24 hours old: check the clocks")
        if not holds_its_type(metric, family.type):
            kind = metrics_pb2.MetricType.Name(family.type)
            _refuse(
                family, f"a sample of type {kind} must have the value of that type, and no other"
            )

    def _checked_native(self, family: Family, metric: Metric) -> remote_pb2.Histogram | None:
        try:
            return checked_native(metric, family.type, self._time_of(metric))
        except BadInputError as error:
            _refuse(family, str(error))

    def _time_of(self, metric: Metric) -> int:
        """Return the timestamp that a sample goes on with."""
        return metric.timestamp_ms if self._rules.keep_times else self._now

    def _count_drift(self, stamp_ms: int) -> None:
        result, drift = self._result, stamp_ms - self._now
        if drift < -DRIFT_MS:
            result.past += 1
        elif drift > DRIFT_MS:
            result.future += 1
        else:
            result.present += 1
        if drift > 0:
            result.overwritten_future += 1

    def _convert(
        self,
        family: Family,
        metric: Metric,
        labels: dict[str, str],
        native: remote_pb2.Histogram | None,
    ) -> bool:
        """Add the series of a metric that may pass; whether there was any.

        A rule that selects the metric by its family's name lets all its series pass, a rule that
        selects a series of a histogram or a summary by the series' own name lets that one pass.
        """
        allows = self._rules.whitelist.allows
        all_pass = allows(labels)
        passed = False
        for own, series in self._series_of(family, metric, labels, native):
            if all_pass or (own is not labels and allows(own)):
                passed = True
                self._add(own, series)
        return passed

    def _series_of(
        self,
        family: Family,
        metric: Metric,
        labels: dict[str, str],
        native: remote_pb2.Histogram | None,
    ) -> Iterator[tuple[dict[str, str], remote_pb2.TimeSeries]]:
        if native is not None:
            yield labels, remote_pb2.TimeSeries(histograms=[native])
        time = self._time_of(metric)
        for suffix, label, value in parts_of(metric, family.type):
            own = labels
            if suffix or label:
                own = {**labels, NAME: family.name + suffix}
                if label:
                    own[label[0]] = label[1]
            sample = remote_pb2.Sample(value=value, timestamp=time)
            yield own, remote_pb2.TimeSeries(samples=[sample])

    def _add(self, labels: dict[str, str], series: remote_pb2.TimeSeries) -> None:
        final = {**labels, **self._rules.labels}
        for name in self._rules.elided:
            final.pop(name, None)
        # Code points sort as their UTF-8 does, so this is the order by bytes.
        pairs = tuple(sorted((name, value) for name, value in final.items() if name and value))
        # Duplicates count too: they take as much work.
        self._output += sum(len(name) + len(value) for name, value in pairs) + SERIES_BYTES
        if self._output > self._limit:
            raise BecomesTooLargeError(
                f"the upload becomes more than {self._limit} bytes of series, {self._output} or "
                f"more: this limit is fixed, {MAX_OUTPUT} or twice the size of a larger upload; "
                "send histograms with fewer buckets or labels",
                limit=self._limit,
                seen=self._output,
            )
        if pairs in self._seen:
            self._result.duplicates += 1
            return
        self._seen.add(pairs)
        for name, value in pairs:
            series.labels.add(name=name, value=value)
        self._request.timeseries.append(series)


def _refuse(family: Family, reason: str) -> NoReturn:
    raise BadInputError(f"metric {family.name}: {reason}")
