"""The embedded store, against a plain dictionary."""

from __future__ import annotations

import gc
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

import telemeter.store.store as store_module
from telemeter.net.upstream import V2, ForwardError
from telemeter.samples.escaping import Escaping
from telemeter.samples.family import decode_families
from telemeter.samples.proto import metrics_pb2, remote_pb2
from telemeter.store import records as compiled
from telemeter.store.federation import Messages
from telemeter.store.store import Store
from tests.fakes import NOW_MS, Growth, clock_at
from tests.store.stored import (
    Labels,
    labels_of,
    lines,
    request,
    series,
    settle,
    shown,
    written,
)

STALE = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]
RETENTION = 600.0


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, RETENTION, 1000)


def up(cluster: str, number: int = 0) -> Labels:
    return labels_of("up", _id=cluster, instance=f"i{number}")


def many(cluster: str, number: int) -> bytes:
    return written({up(cluster, at): (float(at), NOW_MS) for at in range(number)})


def refusal_of(call: Callable[[], Any]) -> ForwardError:
    with pytest.raises(ForwardError) as caught:
        call()
    return caught.value


# --- The model ------------------------------------------------------------------------------------

CLUSTERS = st.sampled_from(["a", "b", "ü"])
SERIES = st.builds(
    lambda name, instance: (name, instance),
    st.sampled_from(["up", "down", "u", "upper", "é"]),
    st.sampled_from(["", *(f"i{number}" for number in range(40)), "x" * 200, 'q"\n\\', "\x00"]),
)
VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False), st.just(STALE))
SAMPLES = st.lists(
    st.tuples(SERIES, st.tuples(VALUES, st.integers(-5, 5).map(lambda late: NOW_MS + late))),
    max_size=60,
)
STEPS: Any = st.lists(
    st.one_of(
        st.tuples(st.just("upload"), CLUSTERS, SAMPLES),
        st.tuples(st.just("write"), CLUSTERS, SAMPLES),
        st.tuples(st.just("wait"), st.floats(0, RETENTION / 2), st.just([])),
    ),
    max_size=8,
)


def is_stale(value: float) -> bool:
    return struct.pack("<d", value) == struct.pack("<d", STALE)


class Model:
    """What the store should hold."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clusters: dict[str, dict[Labels, tuple[float, int]]] = {}
        self.last: dict[str, float] = {}

    def count(self) -> int:
        return sum(map(len, self.clusters.values()))

    def share(self, cluster: str) -> int:
        """How many series a cluster may have."""
        room = self.limit - self.count() + len(self.clusters.get(cluster, ()))
        return min(room, max(10, room // 4))

    def expire(self, now: float) -> None:
        for cluster in list(self.clusters):
            if now - self.last[cluster] >= RETENTION:
                del self.clusters[cluster]

    def upload(self, cluster: str, samples: dict[Labels, tuple[float, int]], now: float) -> bool:
        had = len(self.clusters.get(cluster, ()))
        kept = {labels: sample for labels, sample in samples.items() if not is_stale(sample[0])}
        # The room is looked at with the number that the conversion has counted, and then again.
        for number in (len(samples), len(kept)):
            if number > max(had, self.share(cluster)):
                return False
        self.clusters.pop(cluster, None)
        if kept:
            self.clusters[cluster] = kept
            self.last[cluster] = now
        return True

    def write(self, cluster: str, samples: dict[Labels, tuple[float, int]], now: float) -> bool:
        known = self.clusters.get(cluster)
        new = sum(not is_stale(value) for value, _ in samples.values())
        if known is None:
            if new > self.share(cluster):
                return False
            known = self.clusters[cluster] = {}
            self.last[cluster] = now
        fits = True
        for labels, (value, when) in samples.items():
            had = known.get(labels)
            if had is not None and had[1] > when:
                continue
            if is_stale(value):
                known.pop(labels, None)
            elif had is not None or len(known) < self.share(cluster):
                known[labels] = (value, when)
            else:
                fits = False
        if not known:
            del self.clusters[cluster]
        elif fits:
            self.last[cluster] = now
        return fits


def in_text(model: Model) -> set[tuple[Labels, bytes, int]]:
    return {
        (labels, struct.pack("<d", value), when)
        for samples in model.clusters.values()
        for labels, (value, when) in samples.items()
    }


def in_store(store: Store) -> list[tuple[Labels, bytes, int]]:
    found = []
    for family in decode_families(shown(store, encoding=Messages(escaping=Escaping.NONE))):
        for metric in family.metric:
            labels = {pair.name: pair.value for pair in metric.label if pair.value}
            value = struct.pack("<d", metric.untyped.value)
            found.append((labels_of(family.name, **labels), value, metric.timestamp_ms))
    return found


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(20, 120))
def test_it_holds_what_a_dictionary_would(steps: list[Any], limit: int) -> None:
    clock = clock_at()
    store = Store(clock, RETENTION, limit)
    model = Model(limit)
    for kind, subject, drawn in steps:
        if kind == "wait":
            clock.advance(subject)
            continue
        samples: dict[Labels, tuple[float, int]] = {}
        for (name, instance), sample in drawn:
            others = {"instance": instance} if instance else {}
            # A request that repeats a series: the newest sample counts, of equally new the last.
            labels = labels_of(name, _id=subject, **others)
            if labels not in samples or samples[labels][1] <= sample[1]:
                samples[labels] = sample
        model.expire(clock.seconds())
        try:
            if kind == "upload":
                settle(store.forward(subject, written(samples), len(samples)), clock)
            else:
                repeated = request(
                    *(
                        series(
                            labels_of(name, _id=subject, **({"instance": at} if at else {})), sample
                        )
                        for (name, at), sample in drawn
                    )
                )
                settle(store.send(subject, repeated), clock)
            accepted = True
        except ForwardError as error:
            assert error.status == 507
            accepted = False
        act = model.upload if kind == "upload" else model.write
        assert accepted == act(subject, samples, clock.seconds())
        assert store.series == model.count() <= limit
        assert store.clusters() == sorted(model.clusters)
        found = in_store(store)
        assert len(found) == len(set(found))
        assert set(found) == in_text(model)


# --- Room -----------------------------------------------------------------------------------------


def test_a_new_cluster_that_has_no_room_is_refused_with_the_reason(clock: Clock) -> None:
    store = Store(clock, RETENTION, 10)
    settle(store.forward("a", many("a", 8), 8), clock)
    growth = Growth()
    for call in (store.forward("b", many("b", 3), 3), store.send("b", many("b", 3))):
        error = refusal_of(lambda call=call: settle(call, clock))  # type: ignore[misc]
        assert (error.status, error.retry_after) == (507, "60")
        assert str(error) == (
            "the store has no room for 3 more series of this new cluster: it holds 8, and may hold "
            f"10 (--store-max-series); they take {store.size} bytes, and may take 1073741824 "
            "(--store-max-bytes); a cluster may have a quarter of what others leave"
        )
    assert growth.of("telemeter_store_refused_total", cluster="new") == 2
    assert store.clusters() == ["a"]
    settle(store.forward("b", many("b", 2), 2), clock)
    assert store.series == 10


@pytest.mark.parametrize("is_write", [False, True])
def test_few_clusters_cannot_keep_the_others_out(clock: Clock, is_write: bool) -> None:
    """However much the first ones send, there is a part of what is left for each."""
    store = Store(clock, RETENTION, 1000)
    for number in range(16):
        name = f"c{number}"
        for wanted in (1000, 500, 250, 125, 60, 30, 15, 10, 5, 3, 1):
            payload = many(name, wanted)
            with suppress(ForwardError):
                settle(
                    store.send(name, payload) if is_write else store.forward(name, payload, wanted),
                    clock,
                )
    assert store.clusters() == sorted(f"c{number}" for number in range(16))
    counts = sorted(store._clusters[name].count for name in store.clusters())
    assert sum(counts[-2:]) <= 450
    assert counts[0] >= 1


def large(name: str, series: int, size: int) -> bytes:
    """Series of a cluster with a label of some size."""
    return written(
        {
            labels_of("up", _id=name, number=f"{number}", large="x" * size): (1.0, NOW_MS)
            for number in range(series)
        }
    )


@pytest.mark.parametrize("is_write", [False, True])
def test_bytes_are_bounded_as_well(clock: Clock, is_write: bool) -> None:
    store = Store(clock, RETENTION, 10_000, 1 << 20)
    for number in range(40):
        name, payload = f"c{number % 4}", large(f"c{number % 4}", 1 + number // 4, 60_000)
        if is_write:
            sending: Any = store.send(name, payload)
        else:
            sending = store.forward(name, payload, 1 + number // 4)
        with suppress(ForwardError):
            settle(sending, clock)
        assert store.size <= 1 << 20
    assert len(store.clusters()) == 4
    error = refusal_of(lambda: settle(store.send("c0", large("c0", 50, 60_000)), clock))
    assert (error.status, "--store-max-bytes" in str(error)) == (507, True)


def test_a_known_cluster_may_be_replaced_but_not_grow_when_there_is_no_room(clock: Clock) -> None:
    store = Store(clock, RETENTION, 10)
    settle(store.forward("a", many("a", 10), 10), clock)
    settle(store.forward("a", many("a", 10), 10), clock)
    growth = Growth()
    assert refusal_of(lambda: settle(store.forward("a", many("a", 11), 11), clock)).status == 507
    assert growth.of("telemeter_store_refused_total", cluster="known") == 1
    assert store.series == 10


def test_a_write_that_grows_brings_up_to_date_what_is_there(clock: Clock) -> None:
    store = Store(clock, RETENTION, 1)
    settle(store.send("a", written({up("a", 1): (1, NOW_MS)})), clock)
    later = written({up("a", 0): (5, NOW_MS + 1), up("a", 1): (2, NOW_MS + 1)})
    assert refusal_of(lambda: settle(store.send("a", later), clock)).status == 507
    assert lines(shown(store)) == [f'up{{_id="a",instance="i1"}} 2 {NOW_MS + 1}']


def test_a_refused_request_does_not_keep_a_cluster(clock: Clock) -> None:
    store = Store(clock, RETENTION, 1)
    settle(store.send("a", many("a", 1)), clock)
    clock.advance(RETENTION - 1)
    refusal_of(lambda: settle(store.send("a", many("a", 2)), clock))
    clock.advance(1)
    assert store.clusters() == []


@pytest.mark.parametrize("is_upload", [True, False])
def test_a_series_takes_little_beside_its_labels_and_the_store_knows_how_much(
    is_upload: bool, clock: Clock
) -> None:
    """A hundredth of what bench.store measures."""
    store = Store(clock, RETENTION, 100_000)
    count = 500

    def put(cluster: str) -> int:
        """Put in the series of a cluster; the bytes of their labels."""
        samples = {
            labels_of(f"metric_{at % 40}", _id=cluster, instance=f"10.0.0.1:{at}"): (at / 7, NOW_MS)
            for at in range(count)
        }
        payload = written(samples)
        call = store.forward(cluster, payload, count) if is_upload else store.send(cluster, payload)
        settle(call, clock)
        return sum(len(name) + len(value) for labels in samples for name, value in labels)

    put("first")
    before = store.size
    tracemalloc.start()
    try:
        label_bytes = sum(put(f"{number:036}") for number in range(10))
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < (taken - label_bytes) / (10 * count) <= 120
    assert store.size - before == pytest.approx(taken, rel=0.1)


# --- Time -----------------------------------------------------------------------------------------


def test_a_cluster_is_dropped_after_the_retention(store: Store, clock: Clock) -> None:
    settle(store.forward("a", many("a", 3), 3), clock)
    clock.advance(RETENTION / 2)
    settle(store.forward("b", many("b", 2), 2), clock)
    clock.advance(RETENTION / 2 - 0.5)
    assert store.clusters() == ["a", "b"]
    clock.advance(0.5)
    assert store.cluster("a") is None
    growth = Growth()
    store.expire()
    assert store.series == 2
    assert growth.of("telemeter_store_expired_clusters_total") == 1
    assert growth.of("telemeter_store_series") == -3
    assert growth.of("telemeter_store_clusters") == -1
    clock.advance(RETENTION)
    store.expire()
    assert (store.series, store.size) == (0, 0)


def test_a_large_upload_gives_others_their_turn_and_appears_at_once(clock: Clock) -> None:
    store = Store(clock, RETENTION, 100_000)
    settle(store.forward("a", many("a", 3), 3), clock)
    seen: list[int] = []
    take_turn = clock.callLater

    def call_later(*arguments: Any) -> Any:
        seen.append(store.series)
        return take_turn(*arguments)

    clock.callLater = call_later  # type: ignore[assignment,method-assign]
    settle(store.forward("a", many("a", 3000), 3000), clock)
    assert len(seen) > 10
    assert set(seen) == {3}
    assert store.series == 3000 == len(set(in_store(store)))


@pytest.mark.parametrize("at_once", [4, 16384])
def test_an_upload_in_any_order_is_sorted(
    at_once: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_SORTED_AT_ONCE", at_once)
    store = Store(clock, RETENTION, 10_000)
    names = [f"m{(number * 7919) % 1000:03}" for number in range(1000)]
    payload = written({labels_of(name, _id="a"): (1.0, NOW_MS) for name in names})
    # Not from our own conversion: the same series twice.
    settle(store.forward("a", payload + payload, 2000), clock)
    assert store.series == 1000
    found = [line.partition("{")[0] for line in lines(shown(store))]
    assert found == sorted(names)


def test_many_series_written_in_any_order(clock: Clock) -> None:
    store = Store(clock, RETENTION, 100_000)
    for part in range(5):
        numbers = [(number * 7919 + part) % 3000 for number in range(part, 3000, 5)]
        payload = {up("a", number): (float(part), NOW_MS) for number in numbers}
        settle(store.send("a", written(payload)), clock)
    found = in_store(store)
    assert store.series == len(found) == len(set(found))
    assert [entry[0] for entry in found] == sorted(
        (entry[0] for entry in found), key=lambda labels: (len(labels[2][1]), labels)
    )


# --- What arrives ---------------------------------------------------------------------------------


def test_version_2_is_not_for_the_store(store: Store, clock: Clock) -> None:
    assert refusal_of(lambda: settle(store.send("a", b"", V2), clock)).status == 415


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a\x05\x0a",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0b",
        b"\x0a\x01\x12",
    ],
)
def test_what_is_no_request_is_400(payload: bytes, store: Store, clock: Clock) -> None:
    assert refusal_of(lambda: settle(store.send("a", payload), clock)).status == 400
    assert store.series == 0


@given(st.binary(max_size=60))
def test_no_bytes_break_it(payload: bytes) -> None:
    clock = clock_at()
    store = Store(clock, RETENTION, 100)
    try:
        settle(store.send("a", payload), clock)
    except ForwardError as error:
        assert error.status == 400


def test_fields_that_are_not_for_the_store_are_skipped(store: Store, clock: Clock) -> None:
    one = series(up("a"), (1.0, NOW_MS))
    one.exemplars.add(value=3, timestamp=1)
    payload = remote_pb2.WriteRequest(
        timeseries=[one], metadata=[remote_pb2.MetricMetadata(metric_family_name="up")]
    ).SerializeToString()
    unknown = b"\x98\x06\x01" + b"\xa1\x06" + bytes(8) + b"\xad\x06" + bytes(4)
    settle(store.send("a", payload + unknown), clock)
    assert store.series == 1


def histogram(when: int = NOW_MS, **fields: Any) -> remote_pb2.TimeSeries:
    one = series(labels_of("h", _id="a"))
    one.histograms.add(timestamp=when, **fields)
    return one


def test_a_native_histogram_comes_as_prometheus_shows_it(store: Store, clock: Clock) -> None:
    span = [remote_pb2.BucketSpan(offset=-2, length=2)]
    integers = histogram(
        count_int=5, sum=7.5, schema=3, zero_threshold=0.25, zero_count_int=1,
        positive_spans=span, positive_deltas=[2, -1], negative_spans=span, negative_deltas=[1, -1],
    )  # fmt: skip
    settle(store.send("a", request(integers)), clock)
    assert shown(store) == b""  # it has no text
    (family,) = decode_families(shown(store, encoding=Messages()))
    assert (family.name, family.type) == ("h", metrics_pb2.HISTOGRAM)
    (metric,) = family.metric
    assert metric.timestamp_ms == NOW_MS
    assert [(pair.name, pair.value) for pair in metric.label] == [("_id", "a"), ("instance", "")]
    found = metric.histogram
    assert (found.sample_count, found.sample_sum, found.schema) == (5, 7.5, 3)
    assert (found.zero_threshold, found.zero_count) == (0.25, 1)
    assert list(found.positive_delta) == [2, -1]
    assert list(found.negative_delta) == [1, -1]
    assert [(s.offset, s.length) for s in (*found.positive_span, *found.negative_span)] == [
        (-2, 2)
    ] * 2
    floats = histogram(
        NOW_MS + 1, count_float=2.5, zero_count_float=0.5, positive_counts=[2.0],
        negative_counts=[1.0], reset_hint=remote_pb2.Histogram.GAUGE,
    )  # fmt: skip
    settle(store.send("a", request(floats)), clock)
    (family,) = decode_families(shown(store, encoding=Messages()))
    assert family.type == metrics_pb2.GAUGE_HISTOGRAM
    found = family.metric[0].histogram
    assert (found.sample_count_float, found.zero_count_float) == (2.5, 0.5)
    assert (list(found.positive_count), list(found.negative_count)) == ([2.0], [1.0])
    settle(store.send("a", request(histogram(NOW_MS + 2, count_int=0, sum=STALE))), clock)
    assert store.series == 0


def test_the_module_is_the_same_when_it_is_not_compiled() -> None:
    path = Path(store_module.__file__).with_name("records.py")
    spec = spec_from_file_location("store_records_in_python", path)
    assert spec is not None
    assert spec.loader is not None
    plain = module_from_spec(spec)
    spec.loader.exec_module(plain)
    payload = request(
        *(series(up("a", number), (number / 3, NOW_MS + number)) for number in range(300)),
        histogram(count_int=300),
        series(labels_of("x" * 300, _id="ü" * 300), (STALE, -7)),
    )
    records, end = plain.read_series(payload, 0, 1000)
    assert (records, end) == compiled.read_series(payload, 0, 1000)
    records.sort()
    segment = plain.pack(records)
    assert segment == compiled.pack(records)
    assert plain.unpack(segment) == compiled.unpack(segment) == records
    assert plain.count(segment) == compiled.count(segment) == 302
    for name, labels, tail in records:
        assert plain.locate(segment, name, labels) == compiled.locate(segment, name, labels)
        assert plain.is_stale(tail) == compiled.is_stale(tail)
        assert plain.time_of(tail) == compiled.time_of(tail)
        assert plain.name_after(segment, name) == compiled.name_after(segment, name)
        chosen = [
            module.choose(segment, name, b"", lambda labels: len(labels) > 1)
            for module in (plain, compiled)
        ]
        assert chosen[0] == chosen[1]
    assert plain.first_key(segment) == compiled.first_key(segment) == records[0][:2]
    assert plain.first_name(segment) == compiled.first_name(segment) == records[0][0]
