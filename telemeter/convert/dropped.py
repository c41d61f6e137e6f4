"""Examples of what a whitelist dropped, for the people who write it."""

from __future__ import annotations

from collections.abc import Mapping

from telemeter.samples.limits import MAX_EXAMPLE, MAX_EXAMPLES
from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import NAME


class Examples:
    """The first series dropped of each of the first metric names that were.

    Attributes:
        found: each series' labels, sorted, `__name__` among them, encoded as those of a
            `prometheus.TimeSeries`. One that is longer than `MAX_EXAMPLE` bytes is left out.
    """

    def __init__(self) -> None:
        self.found: tuple[bytes, ...] = ()
        self._names: set[str] = set()

    def add(self, labels: Mapping[str, str]) -> None:
        """Take note of a series that was dropped; its labels are neither empty nor there twice."""
        name = labels[NAME]
        if len(self._names) >= MAX_EXAMPLES or name in self._names:
            return
        self._names.add(name)
        series = remote_pb2.TimeSeries()
        for label, value in sorted(labels.items()):
            series.labels.add(name=label, value=value)
        example = series.SerializeToString()
        if len(example) <= MAX_EXAMPLE:
            self.found += (example,)
