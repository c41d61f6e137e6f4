"""The names and labels of the agent's metrics: docs/protocol.md, "Metrics"."""

from __future__ import annotations

from functools import cache

import pytest
from prometheus_client.parser import text_string_to_metric_families

from telemeter.web.health import metrics_route
from telemeter.web.site.routing import make_site
from tests.agent.world import World, families_reply, up
from tests.fakes import Reply, ask, clock_at, parse_samples


@pytest.fixture(scope="module")
def page() -> str:
    """The page after some cycles."""
    clock = clock_at()
    world = World(clock)
    world.server.reply = [Reply(200), Reply(500), Reply(200)]
    good = families_reply(up())
    world.prometheus.reply = [good, good, Reply(503)]
    world.agent.startService()
    clock.advance(270)
    clock.advance(60)
    world.agent.stopService()
    return ask(make_site([metrics_route()], clock), "GET", "/metrics").text


families_of = cache(lambda page: list(text_string_to_metric_families(page)))
samples_of = cache(parse_samples)

EXPECTED: dict[str, tuple[str, set[str]]] = {
    "federate_samples": ("gauge", set()),
    "federate_filtered_samples": ("gauge", set()),
    "federate_requests": ("counter", set()),
    "federate_requests_failed": ("counter", set()),
    "metricsclient_http_requests": ("counter", {"client", "status_code"}),
    "metricsclient_request_retrieve": ("gauge", {"client", "status_code"}),
    "metricsclient_request_send": ("gauge", {"client", "status_code"}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_metrics_are_there_with_their_labels(page: str, name: str) -> None:
    kind, labels = EXPECTED[name]
    (family,) = (each for each in families_of(page) if each.name == name)
    assert family.type == kind
    assert family.documentation
    assert family.samples
    for sample in family.samples:
        assert set(sample.labels) == labels
        assert sample.name == name + ("_total" if kind == "counter" else "")


@pytest.mark.parametrize(
    "sample",
    [
        "federate_samples",
        "federate_requests_total",
        "federate_requests_failed_total",
        'metricsclient_http_requests_total{client="federate_from",status_code="200"}',
        'metricsclient_http_requests_total{client="federate_from",status_code="503"}',
        'metricsclient_http_requests_total{client="federate_to",status_code="200"}',
        'metricsclient_http_requests_total{client="federate_to",status_code="500"}',
        'metricsclient_request_retrieve{client="federate_from",status_code="200"}',
        'metricsclient_request_send{client="federate_to",status_code="200"}',
    ],
)
def test_traffic_is_counted(page: str, sample: str) -> None:
    ((key, _),) = parse_samples(f"{sample} 1\n").items()
    assert samples_of(page)[key] >= 1
