"""/healthz, /healthz/ready, /metrics, and the list of paths at /."""

from __future__ import annotations

from errno import EMFILE

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from twisted.internet.task import Clock

from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from tests.fakes import ask, parse_samples

PATHS = ["/", "/metrics", "/healthz", "/healthz/ready"]


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def site(clock: Clock, health: Health) -> Site:
    hidden = Route("/hidden", lambda request: b"", listed=False)
    routes = [metrics_route(), *health.routes(), hidden]
    return make_site([index_route(routes), *routes], clock)


@pytest.mark.parametrize("target", ["/healthz", "/healthz/ready"])
def test_it_is_fine(site: Site, target: str) -> None:
    answer = ask(site, "GET", target)
    assert (answer.status, answer.text) == (200, "ok\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_it_wants_no_more(site: Site, health: Health) -> None:
    health.stop()
    assert ask(site, "GET", "/healthz/ready").status == 503
    assert ask(site, "GET", "/healthz").text == "ok\n"


def test_it_needs_the_others_too(clock: Clock) -> None:
    others = [True]
    health = Health(lambda: all(others))
    site = make_site(health.routes(), clock)
    assert ask(site, "GET", "/healthz/ready").status == 200
    others.append(False)
    answer = ask(site, "GET", "/healthz/ready")
    assert (answer.status, answer.text) == (503, "starting\n")
    assert ask(site, "GET", "/healthz").status == 200


def test_what_all_replicas_share_is_told_and_does_not_count(clock: Clock) -> None:
    health = Health()
    health.shared["upstream"] = lambda: "down for 7 seconds"
    site = make_site(health.routes(for_operators=True), clock)
    assert ask(site, "GET", "/healthz/ready").text == "ok\n"
    for query in ("?verbose", "?verbose=1", "?x=y&verbose"):
        answer = ask(site, "GET", f"/healthz/ready{query}")
        assert (answer.status, answer.text) == (
            200,
            "this process: ok\nupstream: down for 7 seconds\n",
        )
    health.stop()
    answer = ask(site, "GET", "/healthz/ready?verbose")
    assert (answer.status, answer.text.splitlines()[0]) == (503, "this process: shutting down")


def test_clients_are_told_no_more_than_needed(site: Site, health: Health) -> None:
    health.shared["upstream"] = lambda: "down for 7 seconds"
    assert ask(site, "GET", "/healthz/ready?verbose").text == "ok\n"


def test_without_descriptors_another_replica_does_better(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(EMFILE, "Too many open files")

    monkeypatch.setattr("telemeter.web.health.os.open", fail)
    answer = ask(site, "GET", "/healthz/ready")
    assert (answer.status, answer.text) == (503, "no file can be opened: Too many open files\n")
    assert ask(site, "GET", "/healthz").status == 200


def test_it_tells_of_changes(health: Health) -> None:
    changes: list[bool] = []
    health.changed = changes.append
    health.ready = False
    health.ready = True
    health.stop()
    assert changes == [False, True, False]


def test_the_index(site: Site) -> None:
    answer = ask(site, "GET", "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {"paths": PATHS}


@pytest.mark.parametrize("accept", [None, "text/plain", "*/*", "nonsense", "text/plain;q=0"])
def test_metrics_as_text(site: Site, accept: str | None) -> None:
    answer = ask(site, "GET", "/metrics", {"Accept": accept} if accept else None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {name for name, _ in parse_samples(answer.text)}
    assert "process_resident_memory_bytes" in names
    assert "process_cpu_seconds_total" in names
    assert "process_open_fds" in names
    assert not [name for name in names if name.endswith("_created")]


def test_metrics_as_openmetrics(site: Site) -> None:
    answer = ask(site, "GET", "/metrics", {"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert list(parse_openmetrics(answer.text))


@pytest.mark.parametrize("target", ["/", "/metrics", "/healthz", "/healthz/ready"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods(site: Site, target: str, method: str) -> None:
    answer = ask(site, method, target)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("target", ["/", "/metrics", "/healthz", "/healthz/ready"])
def test_head(site: Site, target: str) -> None:
    answer = ask(site, "HEAD", target)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
