"""GET /metrics/clusters: some metrics for each cluster."""

from __future__ import annotations

import gzip
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock

from telemeter.fleet.attempt import Attempt, Path
from telemeter.fleet.record import FleetRecord
from telemeter.loop.clocks import elapsed
from telemeter.web.cluster_metrics import METRICS, cluster_metrics_route
from telemeter.web.site.routing import make_site
from tests.fakes import NOW, Answer, FakeWall, Wire, moment_at, parse_answers, request_of


class Fleet:
    """A record, and a site that shows it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.wall = FakeWall(clock)
        self.record = FleetRecord(10_000, moment_at())
        route = cluster_metrics_route(self.record, clock, self.wall)
        self.site = make_site([route], clock)

    def attempt(self, cluster: str, status: int = 200, **more: Any) -> None:
        made = Attempt(cluster.encode(), elapsed(self.clock), Path.UPLOAD, status)
        for name, value in more.items():
            setattr(made, name, value)
        self.record.record(made)

    def get(self, accept_encoding: str = "identity", **parameters: str) -> Answer:
        query = f"?{urlencode(parameters)}" if parameters else ""
        wire = Wire(self.site)
        headers = {"Accept-Encoding": accept_encoding}
        wire.send(request_of("GET", f"/metrics/clusters{query}", headers))
        self.clock.pump([0.0] * 20)  # the turns of others
        (answer,) = parse_answers(wire.written)
        wire.close()
        return answer

    def values(self, **parameters: str) -> dict[str, dict[str, float]]:
        """The values of each cluster, by the names of metrics without their beginning."""
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(self.get(**parameters).body.decode()):
            assert family.type == "gauge"
            for sample in family.samples:
                short = sample.name.removeprefix("telemeter_cluster_")
                found.setdefault(sample.labels["_id"], {})[short] = sample.value
        return found


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    return Fleet(clock)


def test_what_is_known_of_clusters(fleet: Fleet) -> None:
    fleet.attempt(
        "fine",
        measured=True,
        received=12,
        kept=10,
        dropped=2,
        drift=-3,
        expires=NOW + 500,
    )
    fleet.clock.advance(10)
    fleet.attempt("bad", 403)
    assert fleet.values() == {
        "fine": {
            "last_upload_timestamp_seconds": NOW,
            "last_attempt_status": 200,
            "series": 10,
            "dropped_series": 2,
            "clock_drift_seconds": -3,
            "token_expiry_timestamp_seconds": NOW + 500,
        },
        "bad": {"last_attempt_status": 403, "series": 0, "dropped_series": 0},
    }


def test_the_server_s_clock_is_the_measure(fleet: Fleet) -> None:
    fleet.attempt("c")
    fleet.wall.step(3600)
    assert fleet.values()["c"]["last_upload_timestamp_seconds"] == NOW + 3600


def test_filters(fleet: Fleet) -> None:
    fleet.attempt("eu-silent")
    fleet.clock.advance(1000)
    fleet.attempt("eu-1")
    fleet.attempt("us-1", 400)
    assert set(fleet.values(state="silent,refused")) == {"eu-silent", "us-1"}
    assert set(fleet.values(match='{_id=~"eu-.*"}')) == {"eu-silent", "eu-1"}
    assert set(fleet.values(match='{_id=~"eu-.*"}', state="ok")) == {"eu-1"}
    assert fleet.values(match='{_id="other"}') == {}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"state": "sleepy"}, "state: expected some of ok"),
        ({"match": "{"}, "match: "),
        ({"match": "up"}, "match: expected conditions on _id only, saw one on '__name__'"),
        ({"limit": "5"}, "there is no parameter 'limit', only state, match"),
    ],
)
def test_what_is_not_understood(fleet: Fleet, parameters: dict[str, str], reason: str) -> None:
    answer = fleet.get(**parameters)
    assert answer.status == 400
    assert reason in answer.body.decode()


def test_an_identifier_may_have_any_characters(fleet: Fleet) -> None:
    hostile = 'a"b\\c\nd} 1\n# TYPE x counter ü'
    fleet.attempt(hostile)
    assert set(fleet.values()) == {hostile}


def test_each_metric_stands_together_for_many_clusters(fleet: Fleet) -> None:
    for number in range(700):
        fleet.attempt(f"c{number}")
    plain = fleet.get().body
    assert plain.count(b"# TYPE") == len(METRICS)
    assert len(fleet.values()) == 700
    assert gzip.decompress(fleet.get("gzip").body) == plain


def test_what_was_forgotten_is_not_shown(fleet: Fleet) -> None:
    fleet.attempt("old")
    fleet.clock.advance(1000)
    fleet.attempt("new")
    assert fleet.record.forget_silent(500, elapsed(fleet.clock), 10)
    assert set(fleet.values()) == {"new"}
