"""The record against a model, and its bounds."""

from __future__ import annotations

import tracemalloc
from collections import Counter, OrderedDict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.fleet.attempt import MAX_ID, MAX_REASON, Attempt, Path
from telemeter.fleet.history import (
    MAX_ATTEMPTS,
    MAX_ENTRY,
    add_attempt,
    pack_examples,
    read_examples,
)
from telemeter.fleet.record import MAX_UNKNOWN, FleetRecord
from telemeter.fleet.totals import HISTORY, State
from telemeter.loop.clocks import Elapsed, Moment, Wall
from telemeter.samples.proto import remote_pb2
from tests.fakes import NOW, moment_at

#: Half a minute after a full one, so that a second more or less is the same minute.
START = NOW // 60 * 60 + 30


def attempt(
    cluster: str = "c", after: float = 0.0, status: int = 200, kept: int = 10, **more: object
) -> Attempt:
    """An attempt, so many seconds after the start."""
    made = Attempt(cluster.encode(), moment_at(START + after).elapsed, Path.UPLOAD, status)
    made.measured = status == 200 or status >= 500
    if made.measured:
        made.received = made.kept = kept
    for name, value in more.items():
        setattr(made, name, value)
    return made


def record_of(*attempts: Attempt, size: int = 100) -> FleetRecord:
    record = FleetRecord(size, moment_at(START))
    for each in attempts:
        record.record(each)
    return record


STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),  # the cluster
        st.integers(0, 400),  # seconds until then
        st.sampled_from([200, 200, 400, 429, 502]),
        st.integers(0, 50),  # series
        st.booleans(),  # whether its clock is ahead
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 6), st.integers(0, 2000))
def test_it_agrees_with_the_plain_way(
    steps: list[tuple[int, int, int, int, bool]], size: int, later: int
) -> None:
    record = FleetRecord(size, moment_at(START))
    model: OrderedDict[str, tuple[int, int, int, State]] = OrderedDict()
    now = 0
    for number, wait, status, kept, is_ahead in steps:
        now += wait
        name = f"cluster-{number}"
        record.record(attempt(name, now, status, kept, drift=301 if is_ahead else 0))
        _, uploaded, series, state = model.pop(name, (0, 0, 0, State.OK))
        if status in (200, 502):
            series = kept
        if status == 200:
            uploaded = START + now
            state = State.DRIFTING if is_ahead else State.OK
        elif status != 429 or not uploaded:
            state = State.FAILED if status == 502 else State.REFUSED
        model[name] = (START + now, uploaded, series, state)
        while len(model) > size:
            model.popitem(last=False)
    end = START + now + later
    minute = end // 60
    totals = record.totals(moment_at(end))
    states = Counter(
        State.SILENT if minute - seen // 60 >= record.recent else state
        for seen, _, _, state in model.values()
    )
    assert totals.clusters == len(record) == len(model)
    assert {state: count for state, count in totals.states.items() if count} == dict(states)
    recent = [each for each in model.values() if each[1] and minute - each[1] // 60 < record.recent]
    last = totals.minutes[-1][1]
    assert (last.reporting, last.series) == (len(recent), sum(each[2] for each in recent))
    for name, (seen, uploaded, series, _) in model.items():
        slot = record.slot_of(name)
        assert slot is not None
        row = record.row(slot, moment_at(end))
        assert record.states_of(range(slot, slot + 1), minute) == bytes([row.state])
        assert (row.cluster, row.seen, row.uploaded, row.kept) == (
            name,
            Wall(seen),
            Wall(uploaded) if uploaded else None,
            series,
        )
    assert [began / 60 for began, _ in totals.minutes] == list(
        range(minute - HISTORY + 1, minute + 1)
    )
    assert sum(each.uploads + each.problems.total() for _, each in totals.minutes) <= len(steps)


def test_the_last_hour_by_the_minute() -> None:
    record = record_of(
        attempt("a"),
        attempt("b", 60, kept=5),
        attempt("b", 120, 413),
        attempt("b", 121, 502, kept=7),
    )
    minutes = [minute for _, minute in record.totals(moment_at(START + 180)).minutes][-4:]
    assert [minute.uploads for minute in minutes] == [1, 1, 0, 0]
    assert [minute.reporting for minute in minutes] == [1, 2, 2, 2]
    assert [minute.series for minute in minutes] == [10, 15, 17, 17]
    assert [(minute.refused, minute.failed) for minute in minutes][2] == (1, 1)
    assert minutes[2].problems == {413: 1, 502: 1}
    assert minutes[2].forward_errors == 1
    quiet = record.totals(moment_at(START + 180 + 3600)).minutes
    assert sum(minute.uploads for _, minute in quiet) == 0
    assert quiet[0][1].reporting == 2
    assert quiet[-1][1].reporting == 0


def test_the_one_silent_for_the_longest_time_is_forgotten() -> None:
    record = record_of(*(attempt(name, at) for at, name in enumerate("abcacd")), size=3)
    assert [name for name in "abcd" if record.slot_of(name) is not None] == ["a", "c", "d"]
    assert record.totals(moment_at(START)).forgotten == 1
    slot = record.slot_of("d")
    assert slot is not None
    assert (
        len(record.detail(slot, moment_at(START)).attempts) == 1
    )  # nothing of whose place it took


def test_who_only_claims_to_be_a_cluster_gets_no_place() -> None:
    record = record_of(attempt("a"), attempt("b", verified=False, status=401))
    assert record.slot_of("b") is None
    record.record(attempt("a", 5, verified=False, status=401))
    slot = record.slot_of("a")
    assert slot is not None
    detail = record.detail(slot, moment_at(START))
    assert (detail.row.state, detail.row.status) == (State.OK, 200)
    assert detail.claim is not None
    assert (detail.claim.status, detail.claim.count) == (401, 1)
    assert record.totals(moment_at(START)).minutes[-1][1].problems == {401: 2}


@pytest.mark.parametrize("name", ["", "x" * (MAX_ID + 1)])
def test_identifiers_that_cannot_be(name: str) -> None:
    record = record_of(attempt(name))
    assert len(record) == 0
    assert record.totals(moment_at(START)).minutes[-1][1].uploads == 1


def test_the_last_attempts() -> None:
    record = record_of(
        *(attempt("c", at, 400, reason=b"reason %d" % at) for at in range(MAX_ATTEMPTS + 5))
    )
    (slot,) = range(len(record))
    attempts = record.detail(slot, moment_at(START)).attempts
    assert [each.reason for _, each in attempts] == [f"reason {at}" for at in range(12, 4, -1)]


@given(st.lists(st.integers(0, MAX_REASON), max_size=20), st.integers(MAX_ENTRY, 600))
def test_a_trail_has_no_more_room_than_there_is(sizes: list[int], room: int) -> None:
    trail = b""
    for size in sizes:
        trail = add_attempt(trail, attempt(reason=b"r" * size), NOW, room)
        assert len(trail) <= room


def labels(**pairs: str) -> bytes:
    series = remote_pb2.TimeSeries()
    for name, value in pairs.items():
        series.labels.add(name=name, value=value)
    return series.SerializeToString()


def test_dropped_series_that_do_not_fit() -> None:
    small = labels(__name__="up", job="x")
    large = labels(instance="i" * 100, __name__="up", job="x")
    assert [
        (dict(each.labels), each.is_cut) for each in read_examples(pack_examples((small,), 200))
    ] == [({"__name__": "up", "job": "x"}, False)]
    (cut,) = read_examples(pack_examples((large,), 60))
    assert (dict(cut.labels), cut.is_cut) == ({"__name__": "up", "job": "x"}, True)
    (kept,) = read_examples(pack_examples((large, small), 60))
    assert not kept.is_cut
    assert pack_examples((b"\xff" * 50,), 20) == b""


@given(st.lists(st.binary(max_size=300), max_size=3).map(tuple), st.integers(0, 240))
def test_any_bytes_for_dropped_series(examples: tuple[bytes, ...], room: int) -> None:
    packed = pack_examples(examples, room)
    assert len(packed) <= max(room, 0)
    for each in read_examples(packed):
        assert all(isinstance(text, str) for pair in each.labels.items() for text in pair)


def test_what_has_changed() -> None:
    record = record_of(attempt("a"), attempt("b"), attempt("c"))
    version = record.version
    record.record(attempt("a", 1))
    assert [record.ids[slot] for slot in record.changed_since(version)] == [b"a"]
    assert [record.ids[slot] for slot in record.changed_since(0)] == [b"a", b"c", b"b"]


@pytest.mark.parametrize(
    ("drift", "shown", "state"),
    [
        (None, None, State.OK),
        (0, 0, State.OK),
        (-15, -15, State.OK),
        (-300, -300, State.OK),
        (-301, -301, State.DRIFTING),
        (300, 300, State.OK),
        (301, 301, State.DRIFTING),
        (2**60, 2**31 - 1, State.DRIFTING),
        (-(2**31), -(2**31) + 1, State.DRIFTING),
    ],
)
def test_clocks_that_are_off(drift: int | None, shown: int | None, state: State) -> None:
    row = record_of(attempt(drift=drift)).row(0, moment_at(START))
    assert (row.drift, row.state) == (shown, state)


def test_a_refusal_says_nothing_of_the_clock() -> None:
    record = record_of(attempt(drift=-400), attempt("c", 1, 413))
    assert (record.row(0, moment_at(START)).drift, record.row(0, moment_at(START)).state) == (
        -400,
        State.REFUSED,
    )


def test_a_clock_set_back_does_no_harm() -> None:
    record = record_of(attempt("a", 7200), attempt("a", 0), attempt("b", 1))
    totals = record.totals(moment_at(START + 2))
    assert totals.states[State.OK] == 2
    assert totals.minutes[-1][1].reporting == 2


def test_the_worst_clusters_take_a_kilobyte_too() -> None:
    """Whatever they send: the longest texts, each another one."""
    clusters = 4000
    record = FleetRecord(clusters, moment_at(START))
    tracemalloc.start()
    try:
        for turn in range(MAX_ATTEMPTS + 1):
            for number in range(clusters):
                mark = b"%d-%d-" % (number, turn)
                size = MAX_ID if number % 2 else 36
                made = attempt(mark.decode(), turn, 502, kept=number + 70_000)
                made.cluster = (b"%d-" % number).ljust(size, b"x")
                made.reason, made.agent = mark.ljust(MAX_REASON, b"r"), mark.ljust(64, b"a")
                made.examples = (mark.ljust(100, b"e"), mark.ljust(130, b"e"))
                record.record(made)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / clusters < 1024


def test_a_machine_that_begins_in_1970_knows_who_has_uploaded() -> None:
    began = Moment(Elapsed(3.0), Wall(10.0))
    record = FleetRecord(10, began)
    made = attempt("a")
    made.at = Elapsed(5.0)
    record.record(made)
    refused = attempt("a", status=413)
    refused.at = Elapsed(6.0)
    record.record(refused)
    # NTP has set the clock.
    row = record.row(0, Moment(Elapsed(65.0), Wall(NOW)))
    assert row.uploaded == Wall(NOW - 60)
    assert record.totals(Moment(Elapsed(65.0), Wall(NOW))).minutes[-1][1].reporting == 1


def test_claims_to_be_clusters_that_are_not_known_are_few() -> None:
    record = record_of()
    for number in range(MAX_UNKNOWN + 50):
        for _ in range(2):
            record.record(attempt(f"c{number}", 1, 401, verified=False, reason=b"bad token"))
    record.record(attempt("x" * (MAX_ID + 1), 1, 401, verified=False))
    unknown = record.unknown_claims(moment_at(START + 5))
    assert len(unknown) == MAX_UNKNOWN
    assert unknown[0].cluster == f"c{MAX_UNKNOWN + 49}"
    assert (unknown[0].claim.count, unknown[0].claim.status) == (2, 401)
    assert unknown[0].claim.at == pytest.approx(START + 1)
    assert unknown[0].reason == "bad token"
    assert len(record) == 0  # whoever claims gets no place
    record.record(attempt(unknown[0].cluster, 2))
    assert unknown[0].cluster not in [
        each.cluster for each in record.unknown_claims(moment_at(START + 5))
    ]


def test_claims_change_nothing_but_their_count() -> None:
    record = record_of(attempt("c", 0))
    before = record.row(0, moment_at(START + 5))
    record.record(attempt("c", 1, 401, verified=False))
    assert record.row(0, moment_at(START + 5)) == replace(before, claims=1)
