"""What an original agent sent to an original server, replayed to ours.

The recordings in tests/data/original: an upload of the original agent, and what the original server
forwarded after another cycle of the same agent, with the whitelist and the elided label used here.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import snappy

from demo.stack import Stack
from telemeter.samples.proto.metrics_pb2 import Metric, MetricFamily
from telemeter.samples.proto.remote_pb2 import WriteRequest
from tests.reactor import fixture_in_reactor, in_reactor
from tests.running import Daemon, ask, running_server

from .telling import authorize, upload
from .upstream import Upstream
from .wire import decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORIGINAL = Path(__file__).parents[1] / "data" / "original"
CLUSTER = "test"
HOUR_MS = 3600 * 1000

Labels = frozenset[tuple[str, str]]


@fixture_in_reactor()
async def server(stack: Stack, upstream: Upstream) -> AsyncIterator[Daemon]:
    flags = (
        *("--forward-url", upstream.url),
        *("--required-label", "tier=gold"),
        *("--whitelist", '{_id="test"}'),
        *("--elide-label", "_elide"),
    )
    async with running_server(stack, *flags) as server:
        yield server


def recorded_families(age_ms: int) -> list[MetricFamily]:
    """Return the recorded upload, as if its last sample were that old now."""
    families = decode((ORIGINAL / "agent-upload.body").read_bytes())
    metrics = [metric for family in families for metric in family.metric]
    newest = max(metric.timestamp_ms for metric in metrics)
    shift = int(time.time() * 1000) - age_ms - newest
    for metric in metrics:
        metric.timestamp_ms += shift
    return families


def labels_of(family: MetricFamily, metric: Metric) -> Labels:
    pairs = {label.name: label.value for label in metric.label if label.value}
    pairs.pop("_elide", None)
    return frozenset({**pairs, "__name__": family.name}.items())


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def forwarded(request: WriteRequest) -> dict[Labels, bytes]:
    """Return each series' value; check that a series has one sample and sorted labels."""
    result = {}
    for series in request.timeseries:
        names = [label.name for label in series.labels]
        assert names == sorted(names)
        (sample,) = series.samples
        labels = frozenset((label.name, label.value) for label in series.labels)
        result[labels] = bits(sample.value)
    assert len(result) == len(request.timeseries)
    return result


@in_reactor
async def test_a_recorded_upload_is_forwarded_like_by_the_original(
    server: Daemon, upstream: Upstream
) -> None:
    families = recorded_families(age_ms=0)
    jwt = await authorize(server.url, CLUSTER, "any")
    answer = await upload(server.url, jwt, encode(families))
    assert answer.status == 200, answer.text

    (request,) = upstream.received
    ours = forwarded(request)
    assert ours == {
        labels_of(family, metric): bits(metric.untyped.value)
        for family in families
        for metric in family.metric
    }
    # The two cycles hold different metrics in part, and the second was recorded without tier.
    theirs = forwarded(
        WriteRequest.FromString(snappy.uncompress((ORIGINAL / "server-forward.body").read_bytes()))
    )
    without_tier = {labels - {("tier", "gold")} for labels in ours}
    assert without_tier <= theirs.keys()

    now = time.time() * 1000
    times = {series.samples[0].timestamp for series in request.timeseries}
    assert all(abs(now - when) < 60_000 for when in times)
    (headers,) = upstream.headers
    assert headers["thanos-tenant"] == "FB870BF3-9F3A-44FF-9BF7-D7A047A52F43"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-encoding"] == "snappy"
    assert headers["x-prometheus-remote-write-version"] == "0.1.0"


@in_reactor
async def test_the_recorded_head_is_accepted(server: Daemon) -> None:
    # The original sends its headers in this spelling, and asks for the same media type.
    lines = (ORIGINAL / "agent-upload.head").read_text().split("\n")
    pairs = (line.strip().partition(": ") for line in lines[1:] if line.strip())
    headers = {name: value for name, _, value in pairs}
    for own in ("Host", "Transfer-Encoding", "Connection", "Accept-Encoding"):
        del headers[own]
    headers["Authorization"] = f"Bearer {await authorize(server.url, CLUSTER, 'any')}"
    body = encode(recorded_families(age_ms=0))
    answer = await ask(f"{server.url}/upload", method="POST", headers=headers, body=body)
    assert answer.status == 200, answer.text


@in_reactor
async def test_samples_over_a_day_old_are_refused(server: Daemon, upstream: Upstream) -> None:
    jwt = await authorize(server.url, CLUSTER, "any")
    answer = await upload(server.url, jwt, encode(recorded_families(age_ms=25 * HOUR_MS)))
    assert answer.status == 400
    assert "old" in answer.text
    assert upstream.received == []
