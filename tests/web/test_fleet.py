"""The API and the page of the fleet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from twisted.internet.task import Clock

from telemeter.convert.upload import UploadRules
from telemeter.fleet.attempt import Attempt
from telemeter.fleet.record import FleetRecord
from telemeter.loop.clocks import Wall, elapsed, moment
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.samples.selector import parse_selector
from telemeter.samples.stored_series import StoredSeries
from telemeter.samples.whitelist import Whitelist
from telemeter.web.fleet_api import FleetApi
from telemeter.web.fleet_events import HEARTBEAT, MAX_STREAMS, Events
from telemeter.web.fleet_observer import AttemptObserver
from telemeter.web.fleet_page import POLICY, html_sender, page_routes
from telemeter.web.health import index_route
from telemeter.web.site.routing import make_site
from telemeter.web.site.site import Site
from tests.fakes import (
    NOW,
    Answer,
    FakeWall,
    Log,
    Reply,
    Wire,
    ask,
    head_of,
    moment_at,
    untyped,
)
from tests.fleet.test_record import attempt as attempt_of
from tests.web.server import CLUSTER, Server, up

RULES = Whitelist([parse_selector('up{job="a"}')])
MARKUP = '<script>alert("1")</script>&\u2028'


class Store:
    """Holds as many series as wanted."""

    def __init__(self, count: int) -> None:
        self.count = count

    def series(self, cluster: str) -> Any:
        return (
            StoredSeries({"__name__": "up", "n": str(number), "_id": cluster}, value, NOW * 1000)
            for number, value in enumerate(([1.5, float("nan"), float("inf")] * 400)[: self.count])
        )


class Page:
    """A record, and a site that shows it."""

    def __init__(self, clock: Clock, store: Store | None = None, size: int = 10_000) -> None:
        self.clock = clock
        self.wall = FakeWall(clock)
        self.record = FleetRecord(size, moment_at())
        self.events = Events(self.record, clock, self.wall)
        api = FleetApi(self.record, clock, self.wall, lambda: RULES, store)
        routes = [
            index_route([], html_sender()),
            *page_routes(),
            *api.routes(),
            self.events.route(),
        ]
        self.site: Site = make_site(routes, clock)

    def add(self, *clusters: str, **more: Any) -> None:
        for cluster in clusters:
            made = attempt_of(cluster, **more)
            made.at = elapsed(self.clock)
            self.record.record(made)

    def get(self, path: str, accept: str = "*/*", **parameters: object) -> Answer:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return ask(self.site, "GET", path + query, {"Accept": accept})

    def ids(self, **parameters: object) -> list[str]:
        items = self.get(f"/api/v1/clusters?{urlencode(parameters)}").json["items"]
        return [item["id"] for item in items]


@pytest.fixture
def page(clock: Clock) -> Page:
    return Page(clock)


# --- What requests leave in the record ------------------------------------------------------------


@pytest.fixture
def watched(clock: Clock) -> tuple[Server, FleetRecord]:
    server = Server(clock=clock, rules=UploadRules(RULES), ratelimit=60)
    record = FleetRecord(100, moment_at())

    def take(attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            record.record(attempt)

    server.site.observers.append(AttemptObserver(take, clock, server.wall, 1))
    return server, record


def test_an_upload_is_recorded(watched: tuple[Server, FleetRecord]) -> None:
    server, record = watched
    at = (NOW - 40) * 1000
    families = up(job="a", at=at), up(job="b", at=at - 9000)
    server.upload(*families, headers={"User-Agent": "agent/1 " + "x" * 100})
    row = record.row(0, moment_at())
    assert (row.cluster, row.status, row.reason) == (CLUSTER, 200, "")
    assert (row.received, row.kept, row.dropped) == (2, 1, 1)
    assert row.agent == ("agent/1 " + "x" * 100)[:64]
    assert row.expires == Wall(NOW + 86_400)
    assert row.drift == -40
    (dropped,) = record.detail(0, moment_at()).dropped
    assert dropped.labels["job"] == "b"


def test_refusals_and_failures_are_recorded(watched: tuple[Server, FleetRecord]) -> None:
    server, record = watched
    server.upload(untyped("up", ({"_id": "other"}, 1)))
    row = record.row(0, moment_at())
    assert (row.status, row.state.name) == (400, "REFUSED")
    assert "label _id must be" in row.reason
    server.upload(up(job="a"))
    assert record.row(0, moment_at()).status == 429
    server.clock.advance(60)
    server.upstream.reply = Reply(503)
    server.upload(up(job="a", at=(NOW + 60) * 1000))
    row = record.row(0, moment_at(NOW + 60))
    assert (row.status, row.state.name, row.kept) == (503, "FAILED", 1)


def test_without_a_token_there_is_no_cluster(watched: tuple[Server, FleetRecord]) -> None:
    server, record = watched
    server.upload(up(), token="nonsense")
    server.ask("POST", "/authorize?id=somebody")
    server.ask("GET", "/healthz")
    assert len(record) == 0
    assert record.totals(moment_at()).minutes[-1][1].problems == {401: 2}


def test_an_observer_that_fails_harms_nobody(clock: Clock, log: Log) -> None:
    server = Server(clock=clock)

    def observe(*_: object) -> None:
        raise ValueError("broken")

    server.site.observers.append(observe)
    assert server.upload(up()).status == 200
    log.errors_are_fine = True
    assert len(log.errors) == 1


# --- The API --------------------------------------------------------------------------------------


def test_the_totals(page: Page) -> None:
    page.add("a", "b")
    page.add("c", status=413)
    answer = page.get("/api/v1/fleet")
    assert answer.headers["cache-control"] == "no-store"
    fleet = answer.json
    assert (fleet["clusters"], fleet["reporting"], fleet["series"]) == (3, 2, 20)
    assert fleet["states"] == {"ok": 2, "drifting": 0, "silent": 0, "failed": 0, "refused": 1}
    assert fleet["last_hour"]["problems"] == [{"status": 413, "meaning": "too large", "count": 1}]
    assert len(fleet["history"]) == 60
    assert fleet["history"][-1]["uploads"] == 2
    page.add("a", status=502, reason=b"unreachable")
    (*_, minute) = page.get("/api/v1/fleet").json["history"]
    assert (minute["failed"], minute["forward_errors"], minute["refused"]) == (1, 1, 1)


def test_pages(page: Page) -> None:
    page.add(*(f"c{number}" for number in range(5)))
    assert page.ids(sort="id", limit=2, page=2) == ["c2", "c3"]
    assert page.ids(sort="id", order="desc", limit=2) == ["c4", "c3"]
    answer = page.get("/api/v1/clusters", limit=2, page=9).json
    assert (answer["items"], answer["total"], answer["pages"]) == ([], 5, 3)
    page.add("c9")
    assert page.ids(q="9") == ["c9"]


def test_a_large_fleet_is_looked_through_in_slices(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []

    def call_later(delay: float, call: Any, *arguments: Any) -> Any:
        steps.append(call)
        return Clock.callLater(clock, delay, call, *arguments)

    page = Page(clock)
    page.add(*(f"c{number:05}" for number in range(9000)))
    monkeypatch.setattr(clock, "callLater", call_later)
    wire = Wire(page.site)
    wire.deliver(head_of("GET", "/api/v1/clusters?sort=id&order=desc&limit=1"))
    assert not wire.written
    clock.advance(0)
    assert len(steps) >= 5
    assert wire.answer.json["items"][0]["id"] == "c08999"


def test_who_goes_away_leaves_the_way_free(clock: Clock) -> None:
    page = Page(clock)
    page.add(*(f"c{number:05}" for number in range(5000)))
    first, second = Wire(page.site), Wire(page.site)
    for wire in (first, second):
        wire.deliver(head_of("GET", "/api/v1/clusters?limit=1"))
    first.vanish()
    for _ in range(10):
        clock.advance(0)
    assert second.answer.status == 200


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "limit=501",
        "limit=x",
        "limit=%D9%A3",
        "sort=no",
        "order=up",
        "state=sad",
        "what=1",
    ],
)
def test_parameters_that_are_not(page: Page, query: str) -> None:
    answer = page.get(f"/api/v1/clusters?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.text


def test_a_query_has_a_limit(page: Page) -> None:
    answer = page.get("/api/v1/clusters", q="x" * 5000)
    assert (answer.status, "bytes (fixed), it has 5002" in answer.text) == (414, True)


@pytest.mark.parametrize(
    "cluster",
    ["plain", "a/b", "/", "..", ".", "a b+c%20", "ä\n\u202e", MARKUP, "?id=x#", "\\", "''"],
)
def test_identifiers_may_be_anything(page: Page, cluster: str) -> None:
    page.add(cluster, "other")
    assert page.get(f"/api/v1/clusters/{quote(cluster, safe='')}").json["id"] == cluster
    assert page.get("/api/v1/clusters/", id=cluster).json["id"] == cluster
    assert cluster in page.ids()


@pytest.mark.parametrize(
    "path", ["/api/v1/clusters/x", "/api/v1/clusters/", "/api/v1/clusters/%FF"]
)
def test_a_cluster_that_is_not_known(page: Page, path: str) -> None:
    assert page.get(path).status == 404


@pytest.mark.parametrize(
    "path", ["/api/v1", "/api/v1/clustersX", "/static/", "/static/../fleet.py"]
)
def test_other_paths(page: Page, path: str) -> None:
    assert page.get(path).status == 404


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/fleet", "/api/v1/clusters", "/api/v1/clusters/x", "/api/v1/events"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(page: Page, method: str, path: str) -> None:
    assert ask(page.site, method, path).status == 405


def test_all_of_a_cluster(clock: Clock) -> None:
    page = Page(clock, Store(3))
    example = b"\n\x0e\n\x08__name__\x12\x02up\n\x08\n\x03job\x12\x01b"
    page.add("c", dropped=1, examples=(example,))
    value = page.get("/api/v1/clusters/c").json
    assert value["attempts"][0]["dropped"] == 1
    (dropped,) = value["dropped_examples"]
    assert dropped["labels"] == {"__name__": "up", "job": "b"}
    assert dropped["rules"] == [
        {
            "rule": 'up{job="a"}',
            "misses": [{"label": "job", "condition": "job='a'", "value": "b"}],
        }
    ]
    assert [each["value"] for each in value["series"]["items"]] == ["1.5", "NaN", "+Inf"]
    assert value["series"]["is_cut"] is False
    assert page.get("/api/v1/clusters/c", series=2).json["series"]["is_cut"] is True
    assert Page(clock).get("/api/v1/clusters/c").status == 404


def test_many_series_are_looked_at_in_turns(clock: Clock) -> None:
    page = Page(clock, Store(1200))
    page.add("c")
    seen: list[int] = []
    wire = Wire(page.site)
    wire.deliver(head_of("GET", "/api/v1/clusters/c"))
    assert not wire.written
    clock.callLater(0, lambda: seen.append(len(wire.written)))
    clock.advance(0)
    assert seen == [0]  # it was somebody else's turn
    series = wire.answer.json["series"]
    assert (len(series["items"]), series["is_cut"]) == (1000, True)


def test_json_has_no_markup_in_it(page: Page) -> None:
    page.add(MARKUP, reason=MARKUP.encode(), agent=MARKUP.encode(), status=400)
    for path in ("/api/v1/clusters", f"/api/v1/clusters/{quote(MARKUP, safe='')}"):
        answer = page.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.body.isascii()


# --- The page -------------------------------------------------------------------------------------


def test_who_asks_for_html_gets_the_page(page: Page) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = page.get("/", browser)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["vary"] == "Accept"
    assert "set-cookie" not in answer.headers
    assert page.get("/").json == {"paths": ["/"]}
    assert page.get("/", "application/json").headers["vary"] == "Accept"


def test_the_page_needs_nothing_else(page: Page) -> None:
    """Nothing inline, nothing from elsewhere, and no way for text to become markup."""
    html = page.get("/", "text/html").text
    assert "<script>" not in html
    assert "<style" not in html
    assert " style=" not in html
    script = page.get("/static/fleet.js").text
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "DOMParser"):
        assert way not in script
    for name in ("fleet.js", "fleet.css", "icon.svg"):
        answer = page.get(f"/static/{name}")
        assert answer.status == 200
        assert answer.headers["content-security-policy"] == POLICY
        assert f"/static/{name}" in html
        outside = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in outside
        assert "https://" not in outside


# --- Events ---------------------------------------------------------------------------------------


def events_of(wire: Wire) -> list[dict[str, Any]]:
    lines = wire.written.decode().split("\n")
    return [json.loads(line.strip()[6:]) for line in lines if line.startswith("data: ")]


def listen(page: Page) -> Wire:
    wire = Wire(page.site)
    wire.deliver(head_of("GET", "/api/v1/events"))
    return wire


def test_events_tell_what_changes(page: Page) -> None:
    page.add("old")
    wire = listen(page)
    assert b"Content-Type: text/event-stream\r\n" in wire.written
    (first,) = events_of(wire)
    assert (first["fleet"]["clusters"], first["changed"]) == (1, [])
    page.clock.advance(1)
    assert len(events_of(wire)) == 1  # nothing has changed
    page.add("new", "new", "old")
    page.clock.advance(1)
    second = events_of(wire)[1]
    assert [row["id"] for row in second["changed"]] == ["old", "new"]
    assert second["fleet"]["clusters"] == 2
    assert second["more"] is False
    page.add(*(f"c{number}" for number in range(101)))
    page.clock.advance(1)
    third = events_of(wire)[2]
    assert (len(third["changed"]), third["more"]) == (100, True)
    wire.vanish()


def test_events_end_when_the_server_stops(page: Page) -> None:
    wire = listen(page)
    page.events.stop()
    assert wire.written.endswith(b"0\r\n\r\n")
    assert ask(page.site, "GET", "/api/v1/events").status == 503
    assert not [call for call in page.clock.getDelayedCalls() if "Looping" in repr(call)]


def test_there_is_a_sign_of_life(page: Page) -> None:
    wire = listen(page)
    before = len(wire.written)
    page.clock.pump([1] * int(HEARTBEAT))
    assert b":\n\n" in wire.written[before:]
    wire.vanish()


def test_a_slow_reader_misses_events_and_is_dropped_at_last(page: Page) -> None:
    wire = listen(page)
    producer: Any = wire.transport.producer
    producer.pauseProducing()
    for number in range(3):
        page.add(f"c{number}")
        page.clock.advance(1)
    assert len(events_of(wire)) == 1
    producer.resumeProducing()
    page.clock.advance(1)
    assert b"event: missed\n" in wire.written
    producer.pauseProducing()
    page.clock.pump([1] * (int(TIMEOUTS.reader) + 2))
    assert wire.is_aborted()


def test_there_are_so_many_readers_and_no_more(page: Page) -> None:
    wires = [listen(page) for _ in range(MAX_STREAMS)]
    answer = ask(page.site, "GET", "/api/v1/events")
    assert answer.status == 503
    assert f"there are {MAX_STREAMS} readers, a fixed limit" in answer.text
    wires[0].vanish()
    again = listen(page)
    assert events_of(again)
    for wire in (*wires[1:], again):
        wire.vanish()
    assert not [call for call in page.clock.getDelayedCalls() if "Looping" in repr(call)]


# --- The wall clock is set ------------------------------------------------------------------------

STEPS = pytest.mark.parametrize("step", [-3600, 3600, -(10**9)])


@STEPS
def test_setting_the_wall_clock_makes_nobody_silent_and_moves_no_age(page: Page, step: int) -> None:
    page.add("a")
    page.clock.advance(120)
    page.add("b", status=400)
    before = page.get("/api/v1/fleet").json
    page.wall.step(step)
    found = page.get("/api/v1/clusters", sort="id").json
    ages = [found["now"] - item["last_attempt"] for item in found["items"]]
    assert (found["now"], ages) == (NOW + 120 + step, [120, 0])
    assert [item["state"] for item in found["items"]] == ["ok", "refused"]
    detail = page.get("/api/v1/clusters/a").json
    assert detail["now"] - detail["attempts"][0]["at"] == 120
    after = page.get("/api/v1/fleet").json
    assert after["states"] == before["states"]
    assert after["last_hour"] == before["last_hour"]
    dates = [minute["at"] for minute in after["history"]]
    assert dates == [minute["at"] + round(step / 60) * 60 for minute in before["history"]]
    assert abs(dates[-1] - after["now"]) <= 90
    page.clock.advance(900)
    assert page.get("/api/v1/fleet").json["states"]["silent"] == 2


@STEPS
def test_readers_of_events_ask_again_when_the_wall_clock_was_set(page: Page, step: int) -> None:
    wire = listen(page)
    page.clock.advance(1)
    before = len(wire.written)
    page.wall.step(step)
    page.clock.advance(1)
    assert wire.written[before:].count(b"event: missed\n") == 1
    page.clock.pump([1] * 5)
    assert wire.written[before:].count(b"event: missed\n") == 1
    page.add("a")
    page.clock.advance(1)
    event = events_of(wire)[-1]
    assert event["changed"][0]["last_attempt"] == event["now"] - 1
    page.clock.pump([1] * int(HEARTBEAT + 1))
    assert not wire.is_aborted()
    wire.vanish()


@STEPS
def test_the_clock_of_a_cluster_is_off_by_what_ours_says(
    watched: tuple[Server, FleetRecord], step: int
) -> None:
    server, record = watched
    server.wall.step(step)
    server.upload(up(job="a", at=(NOW + step - 40) * 1000))
    row = record.row(0, moment(server.clock, server.wall))
    assert row.drift == -40
    assert (row.seen, row.expires) == (Wall(NOW + step), Wall(NOW + step + 86_400))


def test_clusters_are_found_by_reason_and_by_agent(page: Page) -> None:
    page.add("a", status=400, reason="Malformed: ü".encode(), agent=b"telemeter-client/1.0")
    page.add("b", status=400, reason=b"too large", agent=b"Telemeter-client/2.0")
    page.add("c", agent=b"Prometheus/3.0")
    assert page.ids(reason="malFORMED") == ["a"]
    assert page.ids(reason="\u00fc") == ["a"]
    assert sorted(page.ids(agent="telemeter-client")) == ["a", "b"]
    assert page.ids(agent="client/2", reason="large", state="refused") == ["b"]
    assert page.ids(agent="client/2", reason="malformed") == []
    assert page.get("/api/v1/fleet").json["filters"] == ["reason", "agent"]
