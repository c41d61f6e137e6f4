"""The `/metrics` page.

Metrics are declared at the top of the module that counts them and live in prometheus-client's
global registry, as its users expect. Worker processes have theirs in memory that they share with
their parent (`shared`), whose page adds everything up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from prometheus_client import REGISTRY, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from telemeter.observe.shared import Memory, metrics_of

disable_created_metrics()


class WithWorkers(Collector):
    """The metrics of this process and of worker processes, as one."""

    def __init__(
        self,
        memories: Callable[[], Mapping[int, Memory]],
        pids: Callable[[], Mapping[int, int]],
        own: Collector = REGISTRY,
    ) -> None:
        """Make one.

        Args:
            memories: the metrics of the workers, by their numbers.
            pids: the processes that run now, by the numbers of the workers.
            own: the metrics of this process.
        """
        self._memories = memories
        self._pids = pids
        self._own = own

    def collect(self) -> Iterator[Metric]:
        """All metrics, each name once."""
        yield from merged(self._own.collect(), metrics_of(self._memories().items()))
        yield from of_processes(self._pids())


def merged(own: Iterable[Metric], others: Iterable[Metric]) -> list[Metric]:
    """Add up metrics with the same names; samples with the same labels become one."""
    result = {metric.name: metric for metric in own}
    for metric in others:
        first = result.get(metric.name)
        result[metric.name] = metric if first is None else _sum(first, metric)
    return list(result.values())


def _sum(one: Metric, other: Metric) -> Metric:
    values: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Sample, float]] = {}
    for sample in (*one.samples, *other.samples):
        key = (sample.name, tuple(sorted(sample.labels.items())))
        _, before = values.get(key, (sample, 0.0))
        values[key] = (sample, before + sample.value)
    total = Metric(one.name, one.documentation, one.type, one.unit)
    for sample, value in values.values():
        total.add_sample(sample.name, sample.labels, value)
    return total


def of_processes(pids: Mapping[int, int]) -> list[Metric]:
    """Return what `process_*` says, of each worker, where the system tells it."""
    found: dict[str, Metric] = {}
    for worker, pid in sorted(pids.items()):
        collector = ProcessCollector("telemeter_worker", partial(int, pid), registry=None)
        for metric in collector.collect():
            family = found.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            for sample in metric.samples:
                family.add_sample(sample.name, {"worker": str(worker)}, sample.value)
    return list(found.values())


def metrics_page(accept: str, source: Collector = REGISTRY) -> tuple[str, bytes]:
    """Render all metrics.

    Args:
        accept: the request's `Accept` header; it chooses between text and OpenMetrics.
        source: whose metrics.

    Returns:
        The content type and the body.
    """
    encoder, content_type = choose_encoder(accept)
    # It renders any collector, whatever its annotation says.
    return content_type, cast("Callable[[Any], bytes]", encoder)(source)
