"""Collecting from a Prometheus."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.agent.collect import CollectError, FederationSource
from telemeter.net.url import add_query
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, Family, encode_families
from telemeter.samples.format import Decoder
from tests.agent.world import FROM_URL, families_reply, up
from tests.fakes import (
    SILENCE,
    Broken,
    FakeTransport,
    Growth,
    Log,
    Peer,
    Reply,
    has_fired,
    result_of,
    run,
    start,
)

DATA = Path(__file__).parents[1] / "data"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
def peer() -> Peer:
    return Peer(families_reply(up()))


def make(agent: IAgent, clock: Clock, url: str = FROM_URL, **changed: Any) -> FederationSource:
    options: dict[str, Any] = {"token": "", "limit": 204_800, "timeout": 30.0, **changed}
    return FederationSource(agent, clock, url, **options)


@pytest.fixture
def source(peer: Peer, clock: Clock) -> FederationSource:
    return make(peer.agent, clock)


def families_of(source: FederationSource) -> list[Family]:
    answer: tuple[bytes, Decoder] = run(source.collect())
    body, decode = answer
    return decode(body)


def reason_of(source: FederationSource) -> str:
    with pytest.raises(CollectError) as caught:
        run(source.collect())
    return str(caught.value)


# --- It works -------------------------------------------------------------------------------------


def test_protobuf(source: FederationSource, peer: Peer) -> None:
    families = [up(), up(0.0, job="k")]
    peer.reply = families_reply(*families)
    assert families_of(source) == families


def test_text(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(200, b'up{job="j"} 1 1700000000000\n', {"Content-Type": TEXT})
    assert families_of(source) == [up()]


def test_nothing_matches(source: FederationSource, peer: Peer) -> None:
    for content_type in (PROTOBUF_CONTENT_TYPE, TEXT):
        peer.reply = Reply(200, b"", {"Content-Type": content_type})
        assert families_of(source) == []


@pytest.mark.parametrize("name", ["delimited.pb", "txt"])
def test_what_a_real_prometheus_answers(source: FederationSource, peer: Peer, name: str) -> None:
    content_type = TEXT if name == "txt" else PROTOBUF_CONTENT_TYPE
    body = (DATA / f"prometheus-2.42-federate.{name}").read_bytes()
    if name == "txt":  # recorded in part
        body = body[: body.rindex(b"\n") + 1]
    peer.reply = Reply(200, body, {"Content-Type": content_type})
    families = families_of(source)
    assert {"ALERTS", "ALERTS_FOR_STATE"} <= {family.name for family in families}
    assert all(metric.HasField("timestamp_ms") for each in families for metric in each.metric)


def test_what_is_asked(source: FederationSource, peer: Peer) -> None:
    run(source.collect())
    asked = peer.only
    assert (asked.method, asked.target) == ("GET", "/federate?match%5B%5D=up")
    accept = asked.headers["accept"]
    assert accept.startswith(PROTOBUF_CONTENT_TYPE)
    assert accept.index("text/plain; version=0.0.4") > 0
    assert "authorization" not in asked.headers
    assert asked.body == b""


@pytest.mark.parametrize(
    "selector",
    [
        'up{job="a+b&c=d;e"}',
        '{__name__=~"a|b",x!~"100%25 \\"quoted\\" \\\\d"}',
        "{__name__='single'}",
        '{x="#?/@:,"}',
        '{x="%"}',
        '{x="%2B%zz"}',
        '{x="\u00fc\n"}',
        "{a='{}', b=`back`}",
    ],
)
def test_a_selector_arrives_as_it_was_given(peer: Peer, clock: Clock, selector: str) -> None:
    url = add_query("http://prometheus.test/federate?a=%2B", [("match[]", selector)])
    run(make(peer.agent, clock, url).collect())
    query = peer.only.target.partition("?")[2]
    # As Go reads it, semicolons and all.
    found = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    assert found == [("a", "+"), ("match[]", selector)]
    assert ";" not in query


def test_a_token_is_shown(peer: Peer, clock: Clock) -> None:
    run(make(peer.agent, clock, token="secret").collect())
    assert peer.only.headers["authorization"] == "Bearer secret"


def test_credentials_in_the_url_are_shown(peer: Peer, clock: Clock) -> None:
    url = "http://user:pass@prometheus.test/federate"
    run(make(peer.agent, clock, url).collect())
    assert peer.only.headers["authorization"] == "Basic dXNlcjpwYXNz"
    assert peer.only.headers["host"] == "prometheus.test"


def test_a_token_goes_before_credentials(peer: Peer, clock: Clock) -> None:
    url = "http://user:pass@prometheus.test/federate"
    run(make(peer.agent, clock, url, token="secret").collect())
    assert peer.only.headers["authorization"] == "Bearer secret"


# --- It is too long -------------------------------------------------------------------------------


def test_an_answer_may_have_just_the_limit(peer: Peer, clock: Clock) -> None:
    size = len(encode_families([up()]))
    assert families_of(make(peer.agent, clock, limit=size)) == [up()]
    reason = reason_of(make(peer.agent, clock, limit=size - 1))
    assert "--limit-bytes" in reason
    assert str(size - 1) in reason
    assert "--match" in reason


# --- It is something else -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "--match"),
        (401, "--from-token"),
        (403, "--from-token"),
        (404, "expected status 200"),
        (500, "expected status 200"),
        (503, "expected status 200"),
        (204, "expected status 200"),
        (206, "expected status 200"),
        (300, "expected status 200"),
        (302, "expected status 200"),
    ],
)
def test_another_status(source: FederationSource, peer: Peer, status: int, word: str) -> None:
    body = b"" if status == 204 else b"secret text"
    peer.reply = Reply(status, body)
    growth = Growth()
    reason = reason_of(source)
    assert f"status {status}" in reason
    assert word in reason
    assert "secret" not in reason
    assert len(peer.received) == 1
    labels = {"client": "federate_from", "status_code": str(status)}
    assert growth.of("metricsclient_http_requests_total", **labels) == 1
    assert growth.of("metricsclient_request_retrieve", **labels) == 1


def test_a_long_error_page_is_no_matter(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(500, b"x" * 1_000_000)
    assert "status 500" in reason_of(source)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/html",
        "application/json",
        "application/openmetrics-text; version=1.0.0",
        "text/plain; version=1.0.0",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text",
    ],
)
def test_another_content_type(source: FederationSource, peer: Peer, content_type: str) -> None:
    peer.reply = Reply(200, b"<html>", {"Content-Type": content_type})
    reason = reason_of(source)
    assert "expected Content-Type application/vnd.google.protobuf" in reason
    assert (content_type or "none") in reason


def test_a_binary_content_type(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(200, b"", {"Content-Type": b"\xff\xfe"})
    assert reason_of(source)


# --- Nobody is there ------------------------------------------------------------------------------


def test_no_answer_in_time(source: FederationSource, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    collecting = start(source.collect())
    clock.advance(29.9)
    assert not has_fired(collecting)
    clock.advance(0.1)
    with pytest.raises(CollectError, match="no answer in time"):
        result_of(collecting)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.ConnectionRefusedError(), "cannot connect"),
        (errors.DNSLookupError("prometheus.test"), "not known"),
        (errors.ConnectionLost(), "lost"),
    ],
)
def test_nobody_is_there(clock: Clock, error: Exception, word: str) -> None:
    assert word in reason_of(make(Broken(error), clock, token="secret"))


def test_a_token_is_never_in_a_reason_or_in_the_log(peer: Peer, clock: Clock, log: Log) -> None:
    url = "http://user:secret@prometheus.test/federate?match[]=up"
    for status in (200, 401, 500):
        peer.reply = Reply(status, b"x")
        assert "secret" not in reason_of(make(peer.agent, clock, url, token="secret"))
    assert "secret" not in "".join(log.lines)


# --- Answers that are not whole, and redirects ----------------------------------------------------

LINES = b"".join(b"m%d 1 1700000000000\n" % number for number in range(300))
PACKED = gzip.compress(LINES)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (PACKED[:-8], "cut off"),
        (PACKED[:200], "cut off"),
        (b"", "cut off"),
        (PACKED[:-8] + bytes(8), "damaged"),
        (LINES, "damaged"),
        (PACKED + b"\n\n", "damaged after its first member"),
        (PACKED + b"\n", "cut off after its first member"),
    ],
)
def test_a_damaged_collection_is_none(
    source: FederationSource, peer: Peer, body: bytes, word: str
) -> None:
    peer.reply = Reply(200, body, {"Content-Type": TEXT, "Content-Encoding": "gzip"})
    assert word in reason_of(source)


def test_a_packed_collection(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(200, PACKED * 2, {"Content-Type": TEXT, "Content-Encoding": "x-gzip"})
    body, _ = run(source.collect())
    assert body == LINES * 2
    assert peer.only.headers["accept-encoding"] == "gzip"


class OpenEnded:
    """A server whose answers end with their connection, as those of an HTTP/1.0 proxy do."""

    def __init__(self, body: bytes) -> None:
        self.headers = Headers({"Content-Type": [TEXT]})
        self.code = 200
        self._body = body

    def request(self, *_: object) -> Deferred[Any]:
        return succeed(self)

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(FakeTransport())
        protocol.dataReceived(self._body)
        protocol.connectionLost(Failure(PotentialDataLoss()))


def test_a_last_line_without_an_end(clock: Clock, peer: Peer) -> None:
    whole, _ = run(make(OpenEnded(LINES), clock).collect())  # type: ignore[arg-type]
    assert whole == LINES
    cut = make(OpenEnded(LINES[:-5]), clock)  # type: ignore[arg-type]
    assert "cut off" in reason_of(cut)
    # Where a length says that it is all, it is.
    peer.reply = Reply(200, LINES[:-1], {"Content-Type": TEXT})
    assert len(families_of(make(peer.agent, clock))) == 300


def test_the_limit_is_for_what_was_decoded(peer: Peer, clock: Clock) -> None:
    packed = gzip.compress(bytes(100_001))
    peer.reply = Reply(200, packed, {"Content-Type": TEXT, "Content-Encoding": "gzip"})
    reason = reason_of(make(peer.agent, clock, limit=100_000))
    assert "over the limit of 100000 bytes (--limit-bytes)" in reason


def test_another_coding_is_named(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(200, LINES, {"Content-Type": TEXT, "Content-Encoding": "zstd"})
    assert reason_of(source) == "expected Content-Encoding gzip or none; saw 'zstd'"


def test_a_part_is_no_collection(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(200, LINES, {"Content-Type": TEXT, "Content-Range": "bytes 0-99/200"})
    assert "Content-Range" in reason_of(source)


def test_a_redirect(peer: Peer, clock: Clock) -> None:
    peer.reply = [Reply(301, headers={"Location": "/prom/federate"}), families_reply(up())]
    families_of(make(peer.agent, clock, token="secret"))
    assert peer.received[1].target == "/prom/federate"
    assert peer.received[1].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("location", ["http://elsewhere.test/", "https://prometheus.test/"])
def test_a_token_goes_nowhere_else(peer: Peer, clock: Clock, location: str) -> None:
    peer.reply = Reply(302, headers={"Location": location})
    growth = Growth()
    reason = reason_of(make(peer.agent, clock, token="secret"))
    assert f"the source answered with status 302, which points to {location} and" in reason
    assert len(peer.received) == 1
    labels = {"client": "federate_from", "status_code": "302"}
    assert growth.of("metricsclient_http_requests_total", **labels) == 1


def test_redirects_without_an_end(source: FederationSource, peer: Peer) -> None:
    peer.reply = Reply(302, headers={"Location": "http://elsewhere.test/"})
    assert "http://elsewhere.test/ and is not followed: there were 5 before" in reason_of(source)
    assert len(peer.received) == 6
