"""The /metrics page."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

from telemeter.observe.registry import metrics_page
from tests.fakes import parse_samples


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("c", "A counter.", ["label"], registry=registry).labels('a"b').inc(3)
    Histogram("h", "A histogram.", registry=registry, buckets=(1,)).observe(0.5)
    return registry


SAMPLES = {
    ("c_total", frozenset({("label", 'a"b')})): 3.0,
    ("h_bucket", frozenset({("le", "1.0")})): 1.0,
    ("h_bucket", frozenset({("le", "+Inf")})): 1.0,
    ("h_count", frozenset()): 1.0,
    ("h_sum", frozenset()): 0.5,
}


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "text/plain;version=0.0.4"])
def test_text(registry: CollectorRegistry, accept: str) -> None:
    content_type, body = metrics_page(accept, registry)
    assert content_type.startswith("text/plain; version=")
    # Nothing else: no timestamps of when a metric was made, which the original does not have.
    assert parse_samples(body.decode()) == SAMPLES


def test_openmetrics(registry: CollectorRegistry) -> None:
    content_type, body = metrics_page("application/openmetrics-text; version=1.0.0", registry)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(body.decode())
    names = {sample.name for family in families for sample in family.samples}
    assert names == {name for name, _ in SAMPLES}


def test_all_metrics_are_on_the_page_unless_told_otherwise() -> None:
    _, body = metrics_page("")
    assert b"process_start_time_seconds" in body
