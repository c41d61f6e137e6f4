"""Uploading to the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet import error as errors
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent

from telemeter.agent.authorize import Token
from telemeter.agent.upload import Destination, UploadError
from telemeter.loop.clocks import Elapsed
from telemeter.samples.compression import compress_framed, decompress_framed
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, encode_families
from tests.agent.world import UPLOAD_URL, up
from tests.fakes import (
    SILENCE,
    Broken,
    FakeWall,
    Growth,
    Log,
    Peer,
    Reply,
    has_fired,
    result_of,
    run,
    start,
)

ORIGINAL = Path(__file__).parents[1] / "data" / "original"
SECRET = "the-jwt"
TOKEN = Token(SECRET, {}, Elapsed(0.0))
FAMILIES = encode_families([up()]) * 50
BODY = compress_framed(FAMILIES)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def make(agent: IAgent, clock: Clock, url: str = UPLOAD_URL) -> Destination:
    return Destination(agent, clock, FakeWall(clock), url, 30.0)


@pytest.fixture
def destination(peer: Peer, clock: Clock) -> Destination:
    return make(peer.agent, clock)


def error_of(destination: Destination) -> UploadError:
    with pytest.raises(UploadError) as caught:
        run(destination.upload(BODY, TOKEN))
    assert SECRET not in str(caught.value)
    return caught.value


def recorded_head() -> dict[str, str]:
    lines = (ORIGINAL / "agent-upload.head").read_text().splitlines()
    pairs = (line.split(": ", 1) for line in lines[1:] if line)
    return {name.lower(): value for name, value in pairs}


def test_what_the_server_gets(destination: Destination, peer: Peer) -> None:
    run(destination.upload(BODY, TOKEN))
    got = peer.only
    assert (got.method, got.target) == ("POST", "/upload")
    assert got.headers["authorization"] == f"Bearer {SECRET}"
    assert got.headers["content-type"] == PROTOBUF_CONTENT_TYPE
    assert got.headers["content-encoding"] == "snappy"
    assert got.headers["content-length"] == str(len(BODY))
    assert got.body == BODY


def test_it_is_what_the_original_agent_sends(destination: Destination, peer: Peer) -> None:
    recorded = (ORIGINAL / "agent-upload.body").read_bytes()
    run(destination.upload(compress_framed(decompress_framed(recorded, 1 << 20)), TOKEN))
    head = recorded_head()
    for name in ("content-type", "content-encoding"):
        assert peer.only.headers[name] == head[name]
    # The frames begin alike: the stream's identifier, then a compressed chunk. What is in it may
    # differ in how well it is compressed, not in what it holds.
    assert peer.only.body[:11] == recorded[:11]
    assert decompress_framed(peer.only.body, 1 << 20) == decompress_framed(recorded, 1 << 20)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_2xx_is_fine(destination: Destination, peer: Peer, status: int) -> None:
    peer.reply = Reply(status)
    growth = Growth()
    run(destination.upload(BODY, TOKEN))
    labels = {"client": "federate_to", "status_code": str(status)}
    assert growth.of("metricsclient_http_requests_total", **labels) == 1
    assert growth.of("metricsclient_request_send", **labels) == 1


@pytest.mark.parametrize("status", [300, 302, 400, 401, 403, 404, 413, 415, 429, 500, 502, 503])
def test_anything_else_is_not(destination: Destination, peer: Peer, status: int) -> None:
    peer.reply = Reply(status, b" the reason \n")
    growth = Growth()
    error = error_of(destination)
    assert error.status == status
    assert str(error) == f"the server answered with status {status}: the reason"
    assert error.retry_after is None
    assert len(peer.received) == 1
    labels = {"client": "federate_to", "status_code": str(status)}
    assert growth.of("metricsclient_http_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("300", 300.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("soon", None),
        (b"\xff", None),
    ],
)
def test_retry_after(
    destination: Destination, peer: Peer, value: str | bytes, seconds: float | None
) -> None:
    peer.reply = Reply(401, headers={"Retry-After": value, "Date": "today"})
    error = error_of(destination)
    assert (error.status, error.retry_after) == (401, seconds)


def test_a_long_answer_is_cut_off(destination: Destination, peer: Peer) -> None:
    peer.reply = Reply(500, b"\xff" + b"x" * 100_000)
    assert len(str(error_of(destination))) < 1100


def test_no_answer_in_time(destination: Destination, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    uploading = start(destination.upload(BODY, TOKEN))
    clock.advance(29.9)
    assert not has_fired(uploading)
    clock.advance(0.1)
    with pytest.raises(UploadError, match="no answer in time") as caught:
        result_of(uploading)
    assert caught.value.status == 0
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.ConnectionRefusedError(), "cannot connect"),
        (errors.DNSLookupError("telemeter.test"), "not known"),
        (errors.ConnectionLost(), "lost"),
    ],
)
def test_nobody_is_there(clock: Clock, error: Exception, word: str, log: Log) -> None:
    caught = error_of(make(Broken(error), clock))
    assert word in str(caught)
    assert caught.status == 0
    assert SECRET not in "".join(log.lines)


def test_the_token_goes_before_credentials_in_the_url(peer: Peer, clock: Clock) -> None:
    url = "http://user:pass@telemeter.test/upload"
    run(make(peer.agent, clock, url).upload(BODY, TOKEN))
    assert peer.only.headers["authorization"] == f"Bearer {SECRET}"
    assert peer.only.headers["host"] == "telemeter.test"


def test_an_accepted_upload_is_accepted_whatever_the_body_is(
    destination: Destination, peer: Peer
) -> None:
    peer.reply = Reply(200, b"damaged", {"Content-Encoding": "gzip"})
    run(destination.upload(BODY, TOKEN))


def test_a_redirect(destination: Destination, peer: Peer) -> None:
    peer.reply = [Reply(308, headers={"Location": "/moved"}), Reply(200)]
    growth = Growth()
    run(destination.upload(BODY, TOKEN))
    first, second = peer.received
    assert (second.method, second.target) == ("POST", "/moved")
    assert (second.body, second.headers) == (first.body, first.headers)
    labels = {"client": "federate_to", "status_code": "200"}
    assert growth.of("metricsclient_http_requests_total", **labels) == 1


def test_a_redirect_that_is_not_followed(destination: Destination, peer: Peer) -> None:
    peer.reply = Reply(307, headers={"Location": "https://elsewhere.test/upload?secret"})
    growth = Growth()
    error = error_of(destination)
    assert "status 307, which points to https://elsewhere.test/upload and" in str(error)
    assert error.status == 307
    assert len(peer.received) == 1
    labels = {"client": "federate_to", "status_code": "307"}
    assert growth.of("metricsclient_http_requests_total", **labels) == 1
