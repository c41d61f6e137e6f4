"""The embedded store next to real programs: what reads it sees what a Prometheus would show."""

from __future__ import annotations

import json
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import pytest

from demo.programs import (
    Server,
    query,
    start_agent,
    start_authorizer,
    start_prometheus,
    start_server,
    start_source,
    wait_for_samples,
)
from demo.stack import Program, Stack, fetch
from telemeter.samples.family import decode_families
from tests.reactor import in_reactor
from tests.running import ask, in_thread, running_server

from .senders import make_token, remote_write, start_sender
from .telling import authorize, upload
from .wire import encode, gauge

if TYPE_CHECKING:
    from collections.abc import Sequence

UPLOADER = "uploader"
WRITER = "writer"
TOKEN = "cluster-token"
DELIMITED = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
SELECTORS: tuple[list[str], ...] = (
    ['{__name__=~".+"}'],
    ['{job="prometheus"}'],
    ["up", 'up{_id="writer"}', '{__name__=~"go_.*",quantile!=""}'],
    ['{__name__=~"prometheus_http_request_duration_seconds_bucket",le=~"1|\\\\+Inf"}'],
    ['{instance=""}'],
    ['{_id!="writer"}'],
    ["{}"],
    ['{a!="b"}'],
    ["nothing_has_this_name"],
    [],
)


@dataclass
class System:
    """The programs.

    Attributes:
        server: has the store.
        central: a Prometheus that federates everything from it.
    """

    server: Server
    central: Program


@pytest.fixture(scope="module")
def system(prometheus: None, stack: Stack) -> System:
    """An agent and a Prometheus send, then they stop; another Prometheus reads what they sent."""
    authorizer = start_authorizer(stack, TOKEN)
    server = start_server(
        stack, "server", *("--authorize", f"{authorizer.url}/", "--ratelimit", "0")
    )
    source = start_source(stack)
    wait_for_samples(stack, source)
    token = make_token(stack, WRITER, TOKEN)
    entry = remote_write("telemeter", server.url, WRITER, token)
    writer = start_sender(stack, "writer", urlsplit(source.url).netloc, [entry])
    agent = start_agent(
        stack,
        "agent",
        *("--from", source.url, "--match", '{__name__=~".+"}', "--limit-bytes", "1000000"),
        *("--to", server.url, "--id", UPLOADER, "--to-token", TOKEN, "--interval", "1s"),
    )
    for wanted in (f'up{{_id="{UPLOADER}"}}', f'up{{_id="{WRITER}",job="itself"}}'):
        stack.wait(
            lambda wanted=wanted: federate(server.internal_url, wanted),  # type: ignore[misc]
            wanted,
            server.program,
        )
    # From here on the store stands still. The writer would mark its series as ended; let it not.
    agent.stop()
    writer.signal(signal.SIGKILL)
    writer.popen.wait()
    configuration = (
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: telemeter\n"
        "    honor_labels: true\n"
        "    metrics_path: /federate\n"
        "    params: {'match[]': ['{__name__=~\".+\"}', 'up']}\n"
        f'    static_configs: [{{targets: ["{urlsplit(server.internal_url).netloc}"]}}]\n'
    )
    central = start_prometheus(stack, "central", configuration)
    stack.wait(
        lambda: query(central.url, 'scrape_samples_scraped{job="telemeter"} > 500'),
        "the central Prometheus to have scraped the store",
        central,
    )
    return System(server, central)


def selecting(*match: str) -> str:
    """Return the query with these selectors."""
    return urlencode([("match[]", each) for each in match])


def federate(url: str, *match: str) -> str:
    answer = fetch(f"{url}/federate?{selecting(*match)}")
    assert answer.status == 200, answer.text
    return answer.text


def without_central(text: str) -> list[str]:
    """The samples, without what the central Prometheus adds.

    That are series of its own scrapes, and its job to series that have none.
    """
    return [
        line.replace(',job="telemeter"', "")
        for line in text.splitlines()
        if '_id="' in line and not line.startswith("#")
    ]


@pytest.mark.parametrize("selectors", SELECTORS, ids=str)
def test_a_prometheus_that_federates_from_it_shows_the_same(
    selectors: Sequence[str], system: System
) -> None:
    ours = federate(system.server.internal_url, *selectors)
    theirs = federate(system.central.url, *selectors)
    assert sorted(without_central(ours)) == sorted(without_central(theirs))
    if selectors in (SELECTORS[0], ['{a!="b"}']):
        assert len(without_central(ours)) > 500
        names = [line for line in ours.splitlines() if line.startswith("#")]
        assert names == sorted(names)
        assert len(names) == len(set(names))


REFUSED = (
    *("", "{", "up[1m]", "rate(up[1m])", '{a=~"("}', "up offset 1m"),
    *("up or up", "up @ 1", "-up", '"up"', "up{,}", "NaN", "1", 'up{a=~"*"}'),
)
TAKEN = (" up ", "sum", "offset", "up#", "up{a='b',}", "up{a=`b`}", '{a=~".*"}', '{a=~""}')


@pytest.mark.parametrize(
    ("selector", "status"),
    [*((each, 400) for each in REFUSED), *((each, 200) for each in TAKEN)],
)
def test_what_a_prometheus_refuses_is_refused_and_no_more(
    selector: str, status: int, system: System
) -> None:
    path = f"/federate?{urlencode({'match[]': selector})}"
    for url in (system.server.internal_url, system.central.url):
        assert fetch(url + path).status == status, url


def test_the_scrape_is_whole(system: System, stack: Stack) -> None:
    """The reader takes every series, and finds no fault."""
    series = len(without_central(federate(system.server.internal_url, '{__name__=~".+"}')))
    found = query(system.central.url, 'scrape_samples_scraped{job="telemeter"}')
    assert [each.value for each in found] == [str(series)]
    target = fetch(f"{system.central.url}/api/v1/targets").body
    assert [each["lastError"] for each in json.loads(target)["data"]["activeTargets"]] == [""]


def test_protobuf_is_the_same(system: System) -> None:
    path = f"/federate?{urlencode({'match[]': 'up'})}"
    families = [
        decode_families(fetch(url + path, headers={"Accept": DELIMITED}).body)
        for url in (system.server.internal_url, system.central.url)
    ]
    found = [
        sorted(
            (
                sorted((pair.name, pair.value) for pair in metric.label),
                metric.untyped.value,
                metric.timestamp_ms,
            )
            for family in each
            for metric in family.metric
            if any(pair.name == "_id" for pair in metric.label)
        )
        for each in families
    ]
    assert found[0] == found[1]
    assert found[0]


def test_a_prometheus_that_asks_for_protobuf(system: System, stack: Stack) -> None:
    """With native histograms on, a Prometheus prefers messages."""
    reader = start_prometheus(
        stack,
        "protobuf-reader",
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: telemeter\n"
        "    honor_labels: true\n"
        "    metrics_path: /federate\n"
        "    params: {'match[]': ['{job=~\"prometheus|itself\"}']}\n"
        f'    static_configs: [{{targets: ["{urlsplit(system.server.internal_url).netloc}"]}}]\n',
        "--enable-feature=native-histograms",
    )
    found = f'up{{_id="{WRITER}"}}'
    stack.wait(lambda: query(reader.url, found), "a scrape", reader)
    selector = '{job=~"prometheus|itself"}'
    ours = without_central(federate(system.server.internal_url, selector))
    assert sorted(ours) == sorted(without_central(federate(reader.url, selector)))


def test_our_own_agent_reads_it(system: System, stack: Stack) -> None:
    second = start_server(stack, "second", "--ratelimit", "0")
    agent = start_agent(
        stack,
        "second-agent",
        *("--from", system.server.internal_url, "--match", '{_id="writer",__name__=~"up|go_.*"}'),
        *("--label", "_id=second", "--to", second.url, "--id", "second", "--to-token", "any"),
    )
    stack.wait(lambda: 'up{_id="second"' in federate(second.internal_url, "up"), "it", agent)
    names = '{__name__=~"up|go_.*"}'
    first = federate(system.server.internal_url, '{_id="writer",__name__=~"up|go_.*"}')
    copied = without_central(federate(second.internal_url, names))
    expected = without_central(first.replace('_id="writer"', '_id="second"'))
    assert sorted(line.rpartition(" ")[0] for line in copied) == sorted(
        line.rpartition(" ")[0] for line in expected
    )


@in_reactor
async def test_a_full_store_says_507(stack: Stack) -> None:
    async with running_server(stack, "--store-max-series", "2", "--ratelimit", "0") as server:
        for cluster, number, status in (("a", 2, 200), ("b", 1, 507), ("a", 2, 200), ("a", 3, 507)):
            jwt = await authorize(server.url, cluster, "any")
            families = [gauge(f"m{at}", 1.0, {"_id": cluster}) for at in range(number)]
            answer = await upload(server.url, jwt, encode(families))
            assert answer.status == status
            if status == 507:
                assert "--store-max-series" in answer.text
                assert answer.header("Retry-After") == "60"
        query = selecting('{_id="a"}')
        kept = await ask(f"{server.internal_url}/federate?{query}")
        assert len(without_central(kept.text)) == 2


@in_reactor
async def test_a_reader_that_stops_reading_does_not_hold_up_uploads(stack: Stack) -> None:
    async with running_server(stack, "--ratelimit", "0", "--limit-bytes", "50000000") as server:
        jwt = await authorize(server.url, "a", "any")
        families = [gauge("m", 1.0, {"_id": "a", "n": f"{n:0100}"}) for n in range(40_000)]
        assert (await upload(server.url, jwt, encode(families))).status == 200
        where = urlsplit(server.internal_url)
        with socket.create_connection((where.hostname, where.port or 0)) as reader:
            reader.sendall(b"GET /federate?match[]=m HTTP/1.1\r\nHost: localhost\r\n\r\n")
            began = await in_thread(reader.recv, 1000)
            assert began.startswith(b"HTTP/1.1 200 OK")
            for _ in range(3):
                assert (await upload(server.url, jwt, encode(families[:1]))).status == 200
        kept = await ask(f"{server.internal_url}/federate?{selecting('m')}")
        assert len(without_central(kept.text)) == 1
