"""The names and labels of the server's metrics: docs/protocol.md, "Metrics"."""

from __future__ import annotations

from functools import cache

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import error as errors

from telemeter.convert.upload import UploadRules
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from telemeter.web.health import metrics_route
from telemeter.web.site.routing import make_site
from tests.fakes import Broken, Growth, Reply, ask, clock_at, parse_samples, untyped
from tests.web.server import CLUSTER, Server, up

BEARER = {"Authorization": "Bearer t"}


@pytest.fixture(scope="module")
def page() -> str:
    """The page after some traffic of every kind."""
    rules = UploadRules(Whitelist([parse_selector("up")]))
    server = Server(rules=rules)
    dropped = untyped("down", ({"_id": CLUSTER}, 1.0))
    assert server.ask("POST", f"/authorize?id={CLUSTER}", BEARER).status == 200
    assert server.ask("POST", "/authorize").status == 400
    assert server.upload(up(), dropped).status == 200
    assert server.upload(up()).status == 429
    assert server.upload(body=b"x", cluster="2").status == 400
    server.upstream.reply = Reply(503)
    assert server.upload(up(cluster="3"), cluster="3").status == 503
    broken = Server(forward_agent=Broken(errors.ConnectionRefusedError()))
    assert broken.upload(up()).status == 502
    answer = ask(make_site([metrics_route()], clock_at()), "GET", "/metrics")
    return answer.text


families_of = cache(lambda page: list(text_string_to_metric_families(page)))
samples_of = cache(parse_samples)

HTTP = {"code", "handler", "method"}
EXPECTED: dict[str, tuple[str, set[str]]] = {
    "http_requests": ("counter", HTTP),
    "http_request_duration_seconds": ("histogram", HTTP),
    "http_request_size_bytes": ("histogram", HTTP),
    "telemeter_v1_forward_samples": ("counter", set()),
    "telemeter_v1_forward_requests": ("counter", {"result"}),
    "telemeter_v1_forward_request_duration_seconds": ("histogram", {"status_code"}),
    "telemeter_v1_forward_overwritten_timestamps": ("counter", set()),
    "telemeter_overwritten_timestamps": ("counter", {"tense"}),
    "telemeter_elide_transform_dropped": ("counter", set()),
    "client_in_flight_requests": ("gauge", {"client"}),
    "client_api_requests": ("counter", {"code", "method", "client"}),
    "request_duration_seconds": ("histogram", {"method", "client"}),
    "process_cpu_seconds": ("counter", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_start_time_seconds": ("gauge", set()),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_metrics_are_there_with_their_labels(page: str, name: str) -> None:
    kind, labels = EXPECTED[name]
    (family,) = (each for each in families_of(page) if each.name == name)
    assert family.type == kind
    assert family.documentation
    assert family.samples
    for sample in family.samples:
        assert set(sample.labels) - {"le"} == labels
        suffixes = {"counter": ["_total"], "gauge": [""]}.get(kind, ["_bucket", "_sum", "_count"])
        assert sample.name.removeprefix(name) in suffixes


@pytest.mark.parametrize(
    "sample",
    [
        'http_requests_total{code="200",handler="authorize",method="post"}',
        'http_requests_total{code="400",handler="authorize",method="post"}',
        'http_requests_total{code="200",handler="upload",method="post"}',
        'http_requests_total{code="429",handler="upload",method="post"}',
        'http_requests_total{code="503",handler="upload",method="post"}',
        'http_request_duration_seconds_count{code="200",handler="upload",method="post"}',
        'http_request_size_bytes_count{code="200",handler="upload",method="post"}',
        "telemeter_v1_forward_samples_total",
        'telemeter_v1_forward_requests_total{result="success"}',
        'telemeter_v1_forward_requests_total{result="error"}',
        'telemeter_v1_forward_requests_total{result="telemeter_error"}',
        'telemeter_v1_forward_request_duration_seconds_count{status_code="200"}',
        'telemeter_v1_forward_request_duration_seconds_count{status_code="503"}',
        'telemeter_overwritten_timestamps_total{tense="present"}',
        "telemeter_elide_transform_dropped_total",
        'client_api_requests_total{client="authorize",code="200",method="post"}',
        'client_api_requests_total{client="forward",code="200",method="post"}',
        'client_api_requests_total{client="forward",code="503",method="post"}',
        'request_duration_seconds_count{client="forward",method="post"}',
    ],
)
def test_traffic_is_counted(page: str, sample: str) -> None:
    ((key, _),) = parse_samples(f"{sample} 1\n").items()
    assert samples_of(page)[key] >= 1


@pytest.mark.parametrize(
    "sample",
    [
        'telemeter_v1_forward_requests_total{result="success"}',
        'telemeter_v1_forward_requests_total{result="error"}',
        'telemeter_v1_forward_requests_total{result="telemeter_error"}',
        'telemeter_overwritten_timestamps_total{tense="past"}',
        'telemeter_overwritten_timestamps_total{tense="present"}',
        'telemeter_overwritten_timestamps_total{tense="future"}',
    ],
)
def test_what_may_happen_is_there_from_the_start(page: str, sample: str) -> None:
    ((key, _),) = parse_samples(f"{sample} 1\n").items()
    assert key in samples_of(page)


def test_sizes_and_durations() -> None:
    server = Server()
    growth = Growth()
    labels = {"code": "200", "handler": "upload", "method": "post"}
    body = f'up{{_id="{CLUSTER}"}} 1\n'.encode()
    headers = {"Content-Type": "text/plain", "Content-Encoding": ""}
    assert server.upload(body=body, headers=headers).status == 400
    assert growth.all_of("http_request_size_bytes_sum") == {
        frozenset({**labels, "code": "400"}.items()): len(body)
    }
    assert server.upload(up(), cluster=CLUSTER + "2").status == 400
    assert growth.all_of("http_request_size_bytes_count") == {
        frozenset({**labels, "code": "400"}.items()): 2
    }


def test_other_paths_are_not_counted() -> None:
    server = Server()
    growth = Growth()
    for target in ("/", "/healthz", "/healthz/ready", "/nowhere"):
        server.ask("GET", target)
    assert growth.all_of("http_requests_total") == {}
