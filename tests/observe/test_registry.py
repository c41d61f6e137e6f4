"""The /metrics page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter as Counts
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

from telemeter.observe.registry import WithWorkers, merged, metrics_page, of_processes
from telemeter.observe.shared import Memory
from tests.fakes import parse_samples
from tests.observe.test_shared import new_memory


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("c", "A counter.", ["label"], registry=registry).labels('a"b').inc(3)
    Histogram("h", "A histogram.", registry=registry, buckets=(1,)).observe(0.5)
    return registry


SAMPLES = {
    ("c_total", frozenset({("label", 'a"b')})): 3.0,
    ("h_bucket", frozenset({("le", "1.0")})): 1.0,
    ("h_bucket", frozenset({("le", "+Inf")})): 1.0,
    ("h_count", frozenset()): 1.0,
    ("h_sum", frozenset()): 0.5,
}


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "text/plain;version=0.0.4"])
def test_text(registry: CollectorRegistry, accept: str) -> None:
    content_type, body = metrics_page(accept, registry)
    assert content_type.startswith("text/plain; version=")
    # Nothing else: no timestamps of when a metric was made, which the original does not have.
    assert parse_samples(body.decode()) == SAMPLES


def test_openmetrics(registry: CollectorRegistry) -> None:
    content_type, body = metrics_page("application/openmetrics-text; version=1.0.0", registry)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(body.decode())
    names = {sample.name for family in families for sample in family.samples}
    assert names == {name for name, _ in SAMPLES}


def test_all_metrics_are_on_the_page_unless_told_otherwise() -> None:
    _, body = metrics_page("")
    assert b"process_start_time_seconds" in body


# --- With workers ---------------------------------------------------------------------------------


def family(kind: str, name: str, *samples: tuple[str, dict[str, str], float]) -> Metric:
    metric = Metric(name, f"What {name} says.", kind)
    for sample in samples:
        metric.add_sample(*sample)
    return metric


def shown(metrics: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of metrics, each of which must be there once."""
    pairs = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for metric in metrics
        for sample in metric.samples
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_samples_with_the_same_labels_are_added_up() -> None:
    own = [
        family("counter", "c", ("c_total", {"x": "1", "y": "2"}, 3), ("c_total", {"x": "2"}, 1)),
        family("gauge", "only_own", ("only_own", {}, 7)),
    ]
    others = [
        family("counter", "c", ("c_total", {"y": "2", "x": "1"}, 4), ("c_total", {"x": "3"}, 5)),
        family("gauge", "only_theirs", ("only_theirs", {}, 8)),
    ]
    total = merged(own, others)
    assert [metric.name for metric in total] == ["c", "only_own", "only_theirs"]
    assert [metric.type for metric in total] == ["counter", "gauge", "gauge"]
    assert total[0].documentation == "What c says."
    assert shown(total) == {
        ("c_total", frozenset({("x", "1"), ("y", "2")})): 7,
        ("c_total", frozenset({("x", "2")})): 1,
        ("c_total", frozenset({("x", "3")})): 5,
        ("only_own", frozenset()): 7,
        ("only_theirs", frozenset()): 8,
    }
    # What was given is as it was.
    assert len(own[0].samples) == len(others[0].samples) == 2


LABELS = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
SAMPLES_OF_ONE = st.dictionaries(
    st.tuples(st.sampled_from("ab"), LABELS.map(lambda labels: tuple(sorted(labels.items())))),
    st.integers(0, 1000),
    max_size=8,
)


def metrics_of(values: dict[tuple[str, tuple[tuple[str, str], ...]], int]) -> list[Metric]:
    return [
        family(
            "gauge",
            name,
            *((name, dict(labels), v) for (n, labels), v in values.items() if n == name),
        )
        for name in sorted({name for name, _ in values})
    ]


@given(SAMPLES_OF_ONE, SAMPLES_OF_ONE)
def test_nothing_is_lost_and_nothing_counts_twice(
    own: dict[tuple[str, tuple[tuple[str, str], ...]], int],
    others: dict[tuple[str, tuple[tuple[str, str], ...]], int],
) -> None:
    wanted = Counts(own) + Counts(others)
    found = shown(merged(metrics_of(own), metrics_of(others)))
    assert {(name, tuple(sorted(labels))): value for (name, labels), value in found.items()} == {
        key: wanted[key] for key in {**own, **others}
    }


#: Counts as a worker, and then as the one that takes its place.
WORKER = """
import os
import sys
from prometheus_client import values
from telemeter.observe.shared import Memory, value_class

worker = int(sys.argv[1])
values.ValueClass = value_class(Memory(int(sys.argv[2])))
from prometheus_client import Counter, Gauge, Histogram

Counter("c", "A counter.", ["label"]).labels('a"b').inc(worker + 1)
Gauge("g", "A gauge.", multiprocess_mode="livesum").inc(10)
Gauge("unset", "A gauge.", multiprocess_mode="mostrecent")
Histogram("h", "A histogram.", buckets=(1,)).observe(0.5)
os.kill(os.getpid(), 9)
"""


def run_worker(number: int, memory: Memory) -> None:
    descriptor = memory.descriptor
    argv = [sys.executable, "-c", WORKER, str(number), str(descriptor)]
    done = subprocess.run(argv, pass_fds=[descriptor], check=False)
    assert done.returncode == -9


def test_the_page_of_a_parent(registry: CollectorRegistry) -> None:
    Gauge("unset", "A gauge.", registry=registry).set(5)
    Info("i", "An info.", registry=registry).info({"kind": "x"})
    memories = {number: new_memory() for number in range(3)}
    for number in (0, 1, 1):
        run_worker(number, memories[number])
    memories[0].forget_living()  # its gauges are gone, but not what it has counted
    pids = {7: os.getpid()}
    page = WithWorkers(lambda: memories, lambda: pids, registry)
    _, body = metrics_page("", page)
    found = parse_samples(body.decode())
    of_process = {key: value for key, value in found.items() if "process" in key[0]}
    assert of_process["telemeter_worker_process_open_fds", frozenset({("worker", "7")})] > 0
    assert {key: value for key, value in found.items() if key not in of_process} == {
        ("c_total", frozenset({("label", 'a"b')})): 3 + 1 + 2 + 2,
        ("g", frozenset()): 20,
        ("unset", frozenset()): 5,
        ("i_info", frozenset({("kind", "x")})): 1,
        ("h_bucket", frozenset({("le", "1.0")})): 4,
        ("h_bucket", frozenset({("le", "+Inf")})): 4,
        ("h_count", frozenset()): 4,
        ("h_sum", frozenset()): 2,
    }
    _, body = metrics_page("application/openmetrics-text; version=1.0.0", page)
    assert len(list(parse_openmetrics(body.decode()))) > 5


def test_a_page_without_workers_yet(registry: CollectorRegistry) -> None:
    _, body = metrics_page("", WithWorkers(dict, dict, registry))
    assert parse_samples(body.decode()) == SAMPLES


def test_a_worker_that_is_gone_says_nothing() -> None:
    assert of_processes({1: 2**22 + 1}) == []


def test_every_gauge_of_the_server_says_how_workers_add_up() -> None:
    code = """
from prometheus_client import REGISTRY, Gauge
import telemeter.server.app
gauges = [one for one in REGISTRY._collector_to_names if isinstance(one, Gauge)]
assert len(gauges) > 3
print(*(gauge._name for gauge in gauges
        if gauge._multiprocess_mode not in ("livesum", "livemax", "mostrecent")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")
