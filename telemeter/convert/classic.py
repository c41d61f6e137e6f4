"""Histograms that remote write 1.0 cannot hold, in a form that it can."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from telemeter.convert.results import Written
from telemeter.convert.sieve import Labels, Pairs, Sieve
from telemeter.samples.errors import BecomesTooLargeError
from telemeter.samples.histogram import (
    bucket_texts,
    classic_points,
    is_stale,
    is_too_fine,
    make_coarser,
)
from telemeter.samples.limits import MAX_CUSTOM_HISTOGRAMS, MAX_OUTPUT, SERIES_BYTES
from telemeter.samples.proto import remote_pb2, write_v2_pb2
from telemeter.samples.selector import NAME
from telemeter.samples.series import CUSTOM_BUCKETS

#: What a sample takes, and a bound of a bucket, in bytes.
_SAMPLE_BYTES: Final = 16
_BOUND_BYTES: Final = 8


class Budget:
    """A bound on what a request becomes.

    References to a few long symbols, and histograms with many buckets, could make gigabytes of it.
    """

    def __init__(self) -> None:
        self._spent = 0
        self._histograms = 0

    def spend_on_histograms(self, count: int) -> None:
        """Count histograms that become classic ones, which takes its time."""
        self._histograms += count
        if self._histograms > MAX_CUSTOM_HISTOGRAMS:
            raise BecomesTooLargeError(
                f"the request has {self._histograms} histograms with custom buckets or more, "
                f"{MAX_CUSTOM_HISTOGRAMS} are the most: this limit is fixed; send fewer at once",
                limit=MAX_CUSTOM_HISTOGRAMS,
                seen=self._histograms,
            )

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
        self.spend(size_of(pairs))


def size_of(pairs: Pairs) -> int:
    """Return what labels take, in characters."""
    return sum(len(name) + len(value) for name, value in pairs)


class Fitter:
    """A converter of histograms that 1.0 cannot hold; it counts what goes on.

    One with custom buckets becomes the classic histogram that it is: series with its labels, which
    conflict with others as if they had come so.
    """

    def __init__(
        self, sieve: Sieve, result: Written, budget: Budget, *, keep_origins: bool
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
                self._budget.spend_on_histograms(len(custom))
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
                count(self._result, series)
                return [series, *origins, *classic]
        count(self._result, series)
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
        size = size_of(original) + SERIES_BYTES
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
        size = sum(len(label.name) + len(label.value) for label in series.labels) + SERIES_BYTES
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


def count(result: Written, series: remote_pb2.TimeSeries | write_v2_pb2.TimeSeries) -> None:
    """Count what a series that goes on holds."""
    result.samples += len(series.samples)
    result.histograms += len(series.histograms)
    result.exemplars += len(series.exemplars)
