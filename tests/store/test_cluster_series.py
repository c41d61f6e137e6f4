"""What is kept of one cluster."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.samples.proto import remote_pb2
from telemeter.samples.stored_series import StoredSeries
from telemeter.store.cluster_series import StoreSeries
from telemeter.store.store import Store
from tests.fakes import NOW_MS
from tests.store.stored import labels_of, request, series, settle, written


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, 600, 10_000)


def test_a_cluster_that_is_not_known_has_no_series(store: Store) -> None:
    assert list(StoreSeries(store).series("a")) == []


def test_the_series_of_a_cluster_are_shown_by_name(store: Store, clock: Clock) -> None:
    body = {
        labels_of(name, _id="a", number=f"{number}"): (number + 0.5, NOW_MS + number)
        for name in ("up", "down", "ümläut")
        for number in range(100)
    }
    settle(store.forward("a", written(body), len(body)), clock)
    settle(store.forward("b", written({labels_of("up", _id="b"): (1.0, NOW_MS)}), 1), clock)
    found = list(StoreSeries(store).series("a"))
    assert len(found) == 300
    expected = {labels: StoredSeries(dict(labels), *sample) for labels, sample in body.items()}
    assert {tuple(sorted(one.labels.items())): one for one in found} == expected
    names = [one.labels["__name__"] for one in found]
    assert names == sorted(names)


def test_a_native_histogram_shows_how_much_it_observed(store: Store, clock: Clock) -> None:
    kept = series(labels_of("latency", _id="a"))
    kept.histograms.append(remote_pb2.Histogram(count_int=7, sum=2.5, timestamp=NOW_MS))
    settle(store.forward("a", request(kept), 1), clock)
    (found,) = StoreSeries(store).series("a")
    assert (found.value, found.timestamp_ms) == (7.0, NOW_MS)
