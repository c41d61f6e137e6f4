"""Histograms with custom buckets, and names in UTF-8, at a Prometheus that knows neither."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Final
from urllib.parse import quote

from demo.programs import Server, query, start_prometheus, start_server
from demo.stack import Stack, fetch
from telemeter.auth.composite import make_composite
from telemeter.samples.compression import compress_block
from tests.convert.write_strategies import (
    Histogram,
    Request,
    Sample,
    Series,
    chunk,
    double,
    encode_v2,
    packed,
    packed_doubles,
    varint,
    whole,
    zigzag,
)
from tests.samples.build import STALE_NAN, bits

from .samples import stored

CLUSTER: Final = "custom"
ALL_OF_LAT: Final = '{__name__=~"lat.*"}'
BOUNDS = (0.1, 0.5, 2.5)
COUNTS = (1, 1, 1, 1)
EXPECTED = {"0.1": "1", "0.5": "2", "2.5": "3", "+Inf": "4"}
KINDS = ("Samples", "Histograms", "Exemplars")
V2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"


def histogram(at: int, *, of_floats: bool = False) -> Histogram:
    """Return a histogram that has an observation in every bucket."""
    counted = double(2, bits(4.0)) if of_floats else varint(1, 4)
    buckets = (
        packed_doubles(13, COUNTS)
        if of_floats
        else packed(12, (zigzag(b - a) for a, b in pairwise([0, *COUNTS])))
    )
    spans = chunk(11, whole(2, len(COUNTS)))
    head = counted + double(3, bits(5.0)) + whole(4, zigzag(-53)) + spans + buckets
    return Histogram(head, at, BOUNDS)


def stale(at: int) -> Histogram:
    """Return what a Prometheus sends at the end of any native histogram."""
    return Histogram(varint(1, 0) + double(3, bits(STALE_NAN)), at)


def send(server: Server, at: int) -> None:
    """Write a histogram of whole numbers, one of floats, and a series with a name in UTF-8."""
    series = [lat(name, histogram(at, of_floats=name == "floats")) for name in ("lat", "floats")]
    odd = (("__name__", "http.requests"), ("_id", CLUSTER), ("http.code", "200"))
    series.append(Series(odd, (Sample(bits(7.0), at),)))
    assert write(server, *series) == ["1", "2", "0"]


def lat(name: str, one: Histogram) -> Series:
    """Return a series of one histogram."""
    return Series((("__name__", name), ("_id", CLUSTER), ("zone", "a")), histograms=(one,))


def write(server: Server, *series: Series) -> list[str]:
    """Write series; return how many samples, histograms and exemplars count as written."""
    answer = fetch(
        f"{server.url}/metrics/v1/receive",
        method="POST",
        headers={
            "Authorization": f"Bearer {make_composite(CLUSTER, 'secret')}",
            "Content-Type": V2,
            "Content-Encoding": "snappy",
        },
        body=compress_block(encode_v2(Request(series))),
    )
    assert answer.status == 204, answer.text
    return [answer.headers[f"X-Prometheus-Remote-Write-{kind}-Written"] for kind in KINDS]


def buckets_of(url: str, name: str, at: float) -> dict[str, str]:
    """Return the last value of each bucket that a Prometheus has, by its bound."""
    found = stored(url, f'{name}_bucket{{_id="{CLUSTER}",zone="a"}}', at)
    return {dict(labels)["le"]: samples[-1][1] for labels, samples in found.items()}


def test_forwarded_to_a_receiver_of_1(prometheus: None, stack: Stack) -> None:
    receiver = start_prometheus(
        stack,
        "receiver",
        "",
        *("--web.enable-remote-write-receiver", "--enable-feature=native-histograms"),
    )
    server = start_server(stack, "forwarding", "--forward-url", f"{receiver.url}/api/v1/write")
    now = time.time()
    at = int(now * 1000)
    send(server, at)
    for name in ("lat", "floats"):
        assert buckets_of(receiver.url, name, now + 1) == EXPECTED
        for suffix, value in (("_sum", "5"), ("_count", "4")):
            (samples,) = stored(receiver.url, f"{name}{suffix}", now + 1).values()
            assert samples == [(at, value)]
        assert stored(receiver.url, name, now + 1) == {}
        median = query(receiver.url, f"histogram_quantile(0.5, {name}_bucket)")
        assert [series.value for series in median] == ["0.5"]


def test_federated_from_the_store(prometheus: None, stack: Stack) -> None:
    server = start_server(stack, "storing")
    send(server, int(time.time() * 1000))
    target = server.internal_url.removeprefix("http://")
    configuration = (
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: telemeter\n"
        "    honor_labels: true\n"
        "    metrics_path: /federate\n"
        "    params: {'match[]': ['{__name__=~\".+\"}']}\n"
        f'    static_configs: [{{targets: ["{target}"]}}]\n'
    )
    # The feature makes it ask for protobuf.
    for name, flags in (("text", ()), ("protobuf", ("--enable-feature=native-histograms",))):
        central = start_prometheus(stack, f"central-{name}", configuration, *flags)
        stack.wait(
            lambda url=central.url: query(url, 'up{job="telemeter"} == 1'),  # type: ignore[misc]
            "the scrape to have worked",
            central,
        )
        for histogram_name in ("lat", "floats"):
            assert buckets_of(central.url, histogram_name, time.time() + 1) == EXPECTED
        (series,) = query(central.url, "http_requests")
        assert (series.labels["http_code"], series.value) == ("200", "7")


def test_the_store_ends_them(stack: Stack) -> None:
    server = start_server(stack, "ending")
    at = int(time.time() * 1000)

    def held() -> list[str]:
        answer = fetch(f"{server.internal_url}/federate?match[]={quote(ALL_OF_LAT)}")
        return [line.split("} ")[0] for line in answer.text.splitlines() if line[0] != "#"]

    for later, bounds in enumerate((BOUNDS, (0.2, 0.5, 2.5))):
        one = replace(histogram(at + later), custom=bounds)
        assert write(server, lat("lat", one)) == ["0", "1", "0"]
        label = f'_id="{CLUSTER}"'
        assert sorted(held()) == sorted(
            [f'lat_bucket{{{label},le="{le}",zone="a",instance=""' for le in (*bounds, "+Inf")]
            + [f'lat{suffix}{{{label},zone="a",instance=""' for suffix in ("_sum", "_count")]
        )
    write(server, lat("lat", stale(at + 2)))
    assert held() == []
