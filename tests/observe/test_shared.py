"""The metrics of workers, in memory that they share with their parent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary, values
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.registry import Collector

from telemeter.limits.ratelimit import shared_memory
from telemeter.observe.registry import metrics_page
from telemeter.observe.shared import Key, Memory, metrics_of, value_class
from tests.fakes import Log, parse_samples


def new_memory(size: int = 1 << 20) -> Memory:
    """Memory for the metrics of a worker."""
    return Memory.new(shared_memory("test"), size)


class Shown(Collector):
    """What the page shows of some workers."""

    def __init__(self, *memories: Memory) -> None:
        self._memories = memories

    def collect(self) -> list[Metric]:
        return metrics_of(enumerate(self._memories))

    def samples(self) -> dict[Any, float]:
        """Return the samples on the page."""
        return parse_samples(metrics_page("", self)[1].decode())


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[Memory], CollectorRegistry]:
    """Have the metrics that are declared from now on be in some memory."""

    def count_there(memory: Memory) -> CollectorRegistry:
        monkeypatch.setattr(values, "ValueClass", value_class(memory))
        return CollectorRegistry()

    return count_there


Count = Callable[[Memory], CollectorRegistry]


def use(registry: CollectorRegistry, by: int = 1) -> None:
    """Count this and that."""
    counter = Counter("c", "A counter.", ["b", "a"], registry=registry)
    counter.labels(b="ü\n", a="x").inc(by)
    counter.labels(b="2", a="x")
    Gauge("g", "A gauge.", multiprocess_mode="livesum", registry=registry).set(by)
    Gauge("latest", "A gauge.", multiprocess_mode="mostrecent", registry=registry)
    summary = Summary("s", "A summary.", registry=registry)
    histogram = Histogram("h", "A histogram.", ["a"], registry=registry, buckets=(1, 2.5))
    for value in range(by + 1):
        summary.observe(value)
        for label in "xy":
            histogram.labels(label).observe(value)


def test_it_is_shown_as_if_it_were_of_one_process(count: Count) -> None:
    memory = new_memory()
    use(count(memory), 3)
    shown = Shown(memory).samples()
    values.ValueClass = values.MutexValue
    registry = CollectorRegistry()
    use(registry, 3)
    plain = parse_samples(metrics_page("", registry)[1].decode())
    del plain["latest", frozenset()]  # nobody has set it
    assert shown == plain
    assert shown["h_bucket", frozenset({("a", "x"), ("le", "2.5")})] == 3
    _, page = metrics_page("application/openmetrics-text; version=1.0.0", Shown(memory))
    assert len(list(parse_openmetrics(page.decode()))) == 5


def test_one_that_takes_the_place_of_another_goes_on(count: Count) -> None:
    memory, other = new_memory(), new_memory()
    use(count(memory), 3)
    memory.forget_living()
    assert Shown(memory).samples()["g", frozenset()] == 0
    use(count(memory), 2)
    use(count(other), 4)
    shown = Shown(memory, other).samples()
    assert shown["c_total", frozenset({("b", "ü\n"), ("a", "x")})] == 3 + 2 + 4
    assert shown["g", frozenset()] == 2 + 4
    assert shown["s_sum", frozenset()] == 6 + 3 + 10
    assert shown["h_count", frozenset({("a", "x")})] == 4 + 3 + 5


def test_the_latest_counts(count: Count) -> None:
    memories = [new_memory() for _ in range(3)]
    gauges = [
        Gauge("g", "A gauge.", multiprocess_mode="mostrecent", registry=count(memory))
        for memory in memories
    ]
    assert Shown(*memories).samples() == {}
    for gauge in (gauges[0], gauges[2], gauges[1]):
        gauge.set(gauges.index(gauge))
    assert Shown(*memories).samples() == {("g", frozenset()): 1}


def test_the_largest_counts(count: Count) -> None:
    memories = [new_memory() for _ in range(3)]
    for memory, value in zip(memories, (1, 3, 2), strict=True):
        gauge = Gauge("g", "A gauge.", multiprocess_mode="livemax", registry=count(memory))
        gauge.set(value)
    assert Shown(*memories).samples() == {("g", frozenset()): 3}
    memories[1].forget_living()
    assert Shown(*memories).samples() == {("g", frozenset()): 2}


def test_a_sample_that_is_made_twice_is_one(count: Count) -> None:
    memory = new_memory()
    counter = Counter("c", "A counter.", ["a"], registry=count(memory))
    counter.labels("x").inc(2)
    counter.clear()
    counter.labels("x").inc(3)
    assert Shown(memory).samples() == {("c_total", frozenset({("a", "x")})): 5}


def test_threads_count_together(count: Count) -> None:
    memory = new_memory()
    counter = Counter("c", "A counter.", ["a"], registry=count(memory))

    def work() -> None:
        for number in range(500):
            counter.labels(str(number % 50)).inc()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = Shown(memory).samples()
    assert (len(shown), set(shown.values())) == (50, {40})


def test_how_a_gauge_adds_up_must_be_known(count: Count) -> None:
    registry = count(new_memory())
    with pytest.raises(ValueError, match="g: a multiprocess_mode 'all'"):
        Gauge("g", "A gauge.", registry=registry)


KEYS = st.builds(
    Key,
    st.just("counter"),
    st.just(""),
    st.text(),
    st.text(),
    st.text(),
    st.lists(st.tuples(st.text(), st.text())).map(tuple),
)


@given(st.lists(st.tuples(KEYS, st.floats(allow_nan=False)), max_size=20))
def test_what_is_written_is_read(written: list[tuple[Key, float]]) -> None:
    memory = new_memory()
    places = [memory.add(*each) for each in written]
    read = list(Memory(memory.descriptor).entries())
    assert [(entry.key, entry.value) for entry in read] == written
    assert [entry.at for entry in read] == places
    assert all(place % 8 == 0 for place in places)


# --- What goes wrong ------------------------------------------------------------------------------


def test_without_room_the_work_goes_on(count: Count, log: Log) -> None:
    memory = new_memory(1024)
    counter = Counter("c", "A counter.", ["a"], registry=count(memory))
    for number in range(20):
        counter.labels(str(number)).inc()
    shown = Shown(memory).samples()
    assert 1 < len(shown) < 20
    assert set(shown.values()) == {1}
    (event,) = log.of("some metrics of this worker are not shown")
    assert event["reason"] == "more than 1024 bytes of metrics"
    log.errors_are_fine = True


def test_what_found_no_room_is_shown_when_there_is_some(
    count: Count, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    memory = new_memory()
    counter = Counter("c", "A counter.", registry=count(memory))
    with monkeypatch.context() as broken:
        broken.setattr(os, "posix_fallocate", full)
        long = "x" * 70_000  # more than there is at first
        other = Counter("d", long, registry=CollectorRegistry())
        other.inc(3)
        other.inc(4)
    counter.inc()
    assert Shown(memory).samples() == {("c_total", frozenset()): 1}
    other.inc(5)
    assert Shown(memory).samples()["d_total", frozenset()] == 12
    assert len(log.of("some metrics of this worker are not shown")) == 1
    log.errors_are_fine = True


def damaged(memory: Memory, how: bytes, at: int = 0) -> Memory:
    """Write over what is there."""
    os.pwrite(memory.descriptor, how, at)
    return memory


@pytest.mark.parametrize(
    ("how", "at"),
    [
        (b"\xff" * 8, 0),
        ((1 << 40).to_bytes(8, "little"), 0),
        (b"\xff" * 8, 8),
        ((1 << 40).to_bytes(8, "little"), 8),
        (b"no JSON", 16),
    ],
)
def test_damage_costs_one_worker_s_metrics(count: Count, log: Log, how: bytes, at: int) -> None:
    memories = [new_memory(), new_memory()]
    for memory in memories:
        Counter("c", "A counter.", registry=count(memory)).inc(2)
    damaged(memories[1], how, at)
    assert Shown(*memories).samples() == {("c_total", frozenset()): 2}
    (event,) = log.of("the metrics of a worker are damaged")
    assert event["worker"] == 1
    # The one that takes its place begins anew.
    memories[1].forget_living()
    Counter("c", "A counter.", registry=count(memories[1])).inc(3)
    assert len(log.of("the metrics of this worker begin anew, they were damaged")) == 1
    assert Shown(*memories).samples() == {("c_total", frozenset()): 5}
    log.errors_are_fine = True


def test_memory_that_cannot_be_had_is_closed() -> None:
    read_only = os.open("/proc/self/exe", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        Memory.new(read_only)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_only)


def test_memory_that_is_not_needed_is_closed() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        new_memory()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
