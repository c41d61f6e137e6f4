"""Classic series in the embedded store end when the histogram that they came of does."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from telemeter.convert.sieve import WriteRules
from telemeter.convert.write import sift_write
from telemeter.net.upstream import ForwardError
from telemeter.samples.escaping import Escaping
from telemeter.samples.family import decode_families
from telemeter.samples.proto import remote_pb2
from telemeter.store.classic import Histograms
from telemeter.store.federation import Messages
from telemeter.store.store import Store
from tests.fakes import NOW_MS, clock_at
from tests.samples.build import STALE_NAN
from tests.store.stored import Labels, labels_of, request, series, settle, shown

ORIGINS: Final = WriteRules(keep_origins=True)
LAT: Final = labels_of("lat", _id="a", job="x", zone="z")
CUSTOM: Final = -53

#: What a series is at a time: bounds of custom buckets, or the name of something else.
State: TypeAlias = tuple[float, ...] | str


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, 600.0, 1000)


def at(state: State, when: int, labels: Labels = LAT) -> remote_pb2.TimeSeries:
    """A series with one sample."""
    if state in ("number", "end of a number"):
        return series(labels, (1.0 if state == "number" else STALE_NAN, when))
    one = series(labels)
    if state == "exponential":
        one.histograms.add(timestamp=when, schema=3, count_int=0)
    elif state == "end":
        # A Prometheus marks the end of any native histogram so.
        one.histograms.add(timestamp=when, sum=STALE_NAN, count_int=0)
    elif state == "end with bounds":
        one.histograms.add(timestamp=when, sum=STALE_NAN, schema=CUSTOM, custom_values=[0.1])
    else:
        one.histograms.add(
            timestamp=when,
            schema=CUSTOM,
            count_int=1,
            sum=0.5,
            custom_values=[float(bound) for bound in state],
            positive_spans=[remote_pb2.BucketSpan(offset=len(state), length=1)],
            positive_deltas=[1],
        )
    return one


def write(store: Store, clock: Clock, *found: remote_pb2.TimeSeries) -> None:
    written = sift_write(request(*found), ORIGINS)
    settle(store.send("a", written.payload), clock)


def held(store: Store) -> list[str]:
    """The names of the series that are there, with the labels `le` and `job`."""
    names = []
    for family in decode_families(shown(store, encoding=Messages(escaping=Escaping.NONE))):
        for metric in family.metric:
            labels = {pair.name: pair.value for pair in metric.label}
            names.append(f"{family.name} {labels['job']} {labels.get('le', '')}".rstrip())
    assert len(names) == store.series
    return sorted(names)


def expected(state: State, job: str = "x") -> list[str]:
    if isinstance(state, str):
        return [] if state.startswith("end") else [f"lat {job}"]
    buckets = [f"lat_bucket {job} {le:.1f}" for le in state]
    return sorted([*buckets, f"lat_bucket {job} +Inf", f"lat_sum {job}", f"lat_count {job}"])


STATES: Final[Sequence[State]] = [
    (0.1, 0.5, 2.5),
    (0.2, 0.5),
    (0.5,),
    (),
    "exponential",
    "number",
    "end",
    "end of a number",
    "end with bounds",
]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("later", STATES)
@pytest.mark.parametrize("first", STATES)
def test_a_series_becomes_something_else(
    first: State, later: State, together: bool, store: Store, clock: Clock
) -> None:
    both = at(first, NOW_MS), at(later, NOW_MS + 1)
    if together:
        write(store, clock, *both)
    else:
        write(store, clock, both[0])
        assert held(store) == expected(first)
        write(store, clock, both[1])
    assert held(store) == expected(later)


def test_several_in_one_series_of_a_request(store: Store, clock: Clock) -> None:
    one = at((0.1, 0.5), NOW_MS)
    one.histograms.append(at((0.5, 2.5), NOW_MS + 1).histograms[0])
    write(store, clock, one)
    assert held(store) == expected((0.5, 2.5))
    one.histograms.append(at("end", NOW_MS + 2).histograms[0])
    write(store, clock, one)
    assert held(store) == []


JOBS: Final = ("x", "y", "a longer one")
REQUESTS: Any = st.lists(
    st.lists(st.tuples(st.sampled_from(JOBS), st.sampled_from(STATES)), min_size=1, max_size=6),
    max_size=5,
)


@settings(max_examples=100, deadline=None)
@given(REQUESTS, st.randoms(use_true_random=False))
def test_any_course_of_things(requests: list[list[tuple[str, State]]], random: Any) -> None:
    clock = clock_at()
    store = Store(clock, 600.0, 1000)
    states: dict[str, State] = {}
    beside = labels_of("lat_bucket", _id="a", job="beside", le="0.1")
    write(store, clock, series(beside, (1.0, NOW_MS)))
    when = NOW_MS
    for drawn in requests:
        found = []
        for job, state in drawn:
            when += 1
            states[job] = state
            found.append(at(state, when, labels_of("lat", _id="a", job=job, zone="z")))
        random.shuffle(found)
        write(store, clock, *found)
        wanted = ["lat_bucket beside 0.1"]
        for job, state in states.items():
            wanted += expected(state, job)
        assert held(store) == sorted(wanted)


@pytest.mark.parametrize("state", ["end", (0.2,)])
def test_others_of_the_same_names_stay(state: State, store: Store, clock: Clock) -> None:
    """None of them came of that histogram."""
    others = [
        labels_of("lat_bucket", _id="a", job="x", le="0.1"),
        labels_of("lat_bucket", _id="a", job="x", zone="z", more="m", le="0.1"),
        labels_of("lat_sum", _id="a", job="x"),
        labels_of("late_bucket", _id="a", job="x", zone="z", le="0.1"),
        labels_of("lat", _id="a", job="x", le="0.1"),
    ]
    write(store, clock, *(series(labels, (1.0, NOW_MS)) for labels in others))
    before = held(store)
    write(store, clock, at((0.1,), NOW_MS))
    write(store, clock, at(state, NOW_MS + 1))
    assert held(store) == sorted(before + expected(state))


def test_classic_series_that_did_not_come_of_one_stay(store: Store, clock: Clock) -> None:
    """Some senders have both an exponential histogram and the classic one."""
    classic = [
        series(labels_of("lat_bucket", _id="a", job="x", zone="z", le="0.1"), (1.0, NOW_MS)),
        series(labels_of("lat_sum", _id="a", job="x", zone="z"), (1.0, NOW_MS)),
    ]
    write(store, clock, at("exponential", NOW_MS), *classic)
    write(store, clock, at("end", NOW_MS + 1))
    assert held(store) == ["lat_bucket x 0.1", "lat_sum x"]


def test_a_mark_that_comes_late_ends_nothing_newer(store: Store, clock: Clock) -> None:
    write(store, clock, at((0.1,), NOW_MS))
    write(store, clock, at("end", NOW_MS - 1))
    assert held(store) == expected((0.1,))


@pytest.mark.parametrize("bound", [-0.0, 0.0, float("-inf"), 1e-9, 1e21, 0.1 + 0.2, 7.0])
def test_any_bound(bound: float, store: Store, clock: Clock) -> None:
    write(store, clock, at((bound,), NOW_MS))
    assert store.series == 4
    write(store, clock, at((), NOW_MS + 1))
    assert held(store) == expected(())


def test_a_label_le_of_its_own_and_names_in_utf_8(store: Store, clock: Clock) -> None:
    labels = labels_of("lät.x", _id="a", job="x", le="7", **{"é": "ü", "a.b": "c"})
    write(store, clock, at((0.1,), NOW_MS, labels))
    assert store.series == 4
    write(store, clock, at((0.2,), NOW_MS + 1, labels))
    assert store.series == 4
    write(store, clock, at("end", NOW_MS + 2, labels))
    assert store.series == 0


def test_an_upload_replaces_them(store: Store, clock: Clock) -> None:
    write(store, clock, at((0.1, 0.5), NOW_MS))
    size = store.size
    one = series(labels_of("up", _id="a", job="x"), (1.0, NOW_MS))
    settle(store.forward("a", request(one), 1), clock)
    write(store, clock, at("end", NOW_MS + 1))
    assert held(store) == ["up x"]
    assert 0 < store.size < size


def test_new_bounds_need_no_more_room_than_the_old_ones(clock: Clock) -> None:
    store = Store(clock, 600.0, 5)
    write(store, clock, at((0.1, 0.5), NOW_MS))
    write(store, clock, at((0.2, 0.7), NOW_MS + 1))
    assert held(store) == expected((0.2, 0.7))
    with pytest.raises(ForwardError, match="no room for 1 more series of this known cluster"):
        write(store, clock, at((0.2, 0.6, 0.7), NOW_MS + 2))
    # What was taken of it ends as well.
    write(store, clock, at("end", NOW_MS + 3))
    assert (store.series, store.size) == (0, 0)


def test_many_bounds_give_others_their_turn(clock: Clock) -> None:
    store = Store(clock, 600.0, 100_000)
    turns = 0
    take_turn = clock.callLater

    def call_later(*arguments: Any) -> Any:
        nonlocal turns
        turns += 1
        return take_turn(*arguments)

    clock.callLater = call_later  # type: ignore[assignment,method-assign]
    write(store, clock, at(tuple(map(float, range(3000))), NOW_MS))
    turns = 0
    write(store, clock, at((), NOW_MS + 1))
    assert turns > 20
    assert held(store) == expected(())


def test_the_store_knows_what_it_takes_to_remember_histograms(clock: Clock) -> None:
    store = Store(clock, 600.0, 100_000)
    count = 60

    def payload(cluster: int, when: int, *, is_end: bool = False) -> bytes:
        state: State = "end" if is_end else (0.1, 0.5)
        found = [
            at(state, when, labels_of("lat", _id=f"{cluster:036}", job=f"10.0.0.1:{number}"))
            for number in range(count)
        ]
        return sift_write(request(*found), ORIGINS).payload

    settle(store.send("0", payload(0, NOW_MS)), clock)
    before = store.size
    payloads = [payload(number, NOW_MS) for number in range(1, 7)]
    tracemalloc.start()
    try:
        for number, sent in enumerate(payloads, 1):
            settle(store.send(str(number), sent), clock)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.size - before == pytest.approx(taken, rel=0.1)
    for number in range(7):
        settle(store.send(str(number), payload(number, NOW_MS + 1, is_end=True)), clock)
    assert (store.series, store.size) == (0, 0)


def test_it_does_not_remember_more_than_there_can_be(store: Store, clock: Clock) -> None:
    """What came of a histogram may be ended one by one; that must not leave it behind for ever."""
    write(store, clock, at("number", NOW_MS, labels_of("up", _id="a", job="x")))
    size = store.size
    for number in range(50):
        origin = at((0.1, 0.5), NOW_MS, labels_of("lat", _id="a", job=str(number)))
        parts = remote_pb2.WriteRequest.FromString(
            sift_write(request(origin), ORIGINS).payload
        ).timeseries
        write(store, clock, origin)
        for part in parts[1:]:
            part.samples[0].value = STALE_NAN
        settle(store.send("a", request(*parts[1:])), clock)
    assert held(store) == ["up x"]
    assert store.size <= size + 400


def test_histograms_are_told_apart() -> None:
    histograms = Histograms()
    keys = (b"a", b"b"), (b"ab", b""), (b"a", b"")
    for key in keys:
        assert histograms.replace(key, b"x" * 8) is None
    assert (histograms.series, histograms.size) == (3 * 4, 3 * 104)
    assert [histograms.has(key) for key in keys] == [True] * 3
    assert histograms.replace(keys[0], b"y" * 2000) == b"x" * 8
    assert (histograms.series, histograms.size) == (3 * 3 + 2 + 250, 3 * 104 + 2000)
    for key in keys:
        histograms.replace(key, None)
        assert not histograms.has(key)
    assert (histograms.series, histograms.size) == (0, 0)
