"""Remote write to the upstream: docs/protocol.md, "Forwarding"."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web._newclient import RequestTransmissionFailed
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IAgent

from telemeter.net.upstream import V2, ForwardError
from telemeter.samples.compression import decompress_block
from telemeter.upstream.batch import BatchLimits
from telemeter.upstream.forwarder import Forwarder
from tests.fakes import (
    SILENCE,
    Broken,
    Growth,
    Log,
    Peer,
    Reply,
    has_fired,
    result_of,
    run,
    start,
)

URL = "http://upstream.test:19291/api/v1/receive?x=y"
TENANT = "the-tenant"
PAYLOAD = b"payload" * 1000


@pytest.fixture
def peer() -> Peer:
    return Peer()


def make(agent: IAgent, clock: Clock, url: str = URL) -> Forwarder:
    return Forwarder(agent, clock, url, TENANT)


@pytest.fixture
def forwarder(peer: Peer, clock: Clock) -> Forwarder:
    return make(peer.agent, clock)


def test_what_the_upstream_gets(forwarder: Forwarder, peer: Peer) -> None:
    run(forwarder.forward("c", PAYLOAD, 7))
    got = peer.only
    assert (got.method, got.target) == ("POST", "/api/v1/receive?x=y")
    assert got.headers["host"] == "upstream.test:19291"
    assert got.headers["content-type"] == "application/x-protobuf"
    assert got.headers["content-encoding"] == "snappy"
    assert got.headers["x-prometheus-remote-write-version"] == "0.1.0"
    assert got.headers["thanos-tenant"] == TENANT
    assert got.headers["content-length"] == str(len(got.body))
    assert "transfer-encoding" not in got.headers
    assert "authorization" not in got.headers
    assert decompress_block(got.body, 1 << 20) == PAYLOAD
    assert len(got.body) < len(PAYLOAD)


def test_the_headers_of_2_0(forwarder: Forwarder, peer: Peer) -> None:
    sent = run(forwarder.send("c", PAYLOAD, V2))
    assert sent.status == 200
    headers = peer.only.headers
    assert headers["content-type"] == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
    assert headers["x-prometheus-remote-write-version"] == "2.0.0"
    assert headers["thanos-tenant"] == TENANT


def test_credentials_in_the_url_become_a_header(peer: Peer, clock: Clock, log: Log) -> None:
    run(make(peer.agent, clock, "http://user:secret@upstream.test/w").forward("c", PAYLOAD, 1))
    assert peer.only.headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert peer.only.target == "/w"
    assert "secret" not in "".join(log.lines)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_success(forwarder: Forwarder, peer: Peer, status: int) -> None:
    peer.reply = Reply(status, b"ignored" if status != 204 else b"")
    growth = Growth()
    run(forwarder.forward("c", PAYLOAD, 7))
    assert growth.of("telemeter_v1_forward_samples_total") == 7
    assert growth.of("telemeter_v1_forward_requests_total", result="success") == 1
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 0
    name = "telemeter_v1_forward_request_duration_seconds_count"
    assert growth.all_of(name) == {frozenset({("status_code", str(status))}): 1}


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 429, 500, 503, 599])
def test_anything_else_is_an_error_with_its_status(
    forwarder: Forwarder, peer: Peer, status: int, log: Log
) -> None:
    body = b"the upstream's own text"
    peer.reply = Reply(status, body, {"Location": "http://elsewhere.test/"})
    growth = Growth()
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", PAYLOAD, 7))
    assert caught.value.status == status
    assert caught.value.retry_after is None
    assert caught.value.answered
    assert "own text" not in str(caught.value)
    assert "upstream.test" not in str(caught.value)
    assert len(peer.received) == 1
    (event,) = log.of("the upstream refused")
    assert (event["status"], event["answer"]) == (status, body.decode())
    assert growth.of("telemeter_v1_forward_samples_total") == 0
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1
    name = "telemeter_v1_forward_request_duration_seconds_count"
    assert growth.all_of(name) == {frozenset({("status_code", str(status))}): 1}


@pytest.mark.parametrize("status", [300, 302, 304, 305, 399, 600, 700, 999])
def test_a_status_that_no_sender_can_be_given_is_502(
    forwarder: Forwarder, peer: Peer, status: int, log: Log
) -> None:
    peer.reply = Reply(status)
    growth = Growth()
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", PAYLOAD, 7))
    assert (caught.value.status, caught.value.answered) == (502, False)
    assert str(caught.value) == f"the upstream answered with the unexpected status {status}"
    (event,) = log.of("the upstream refused")
    assert event["status"] == status
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1


def test_a_redirect_on_the_same_server_is_followed(forwarder: Forwarder, peer: Peer) -> None:
    peer.reply = [Reply(308, headers={"Location": "/moved"}), Reply(204)]
    assert run(forwarder.send("c", PAYLOAD)).status == 204
    first, second = peer.received
    assert (second.method, second.target) == ("POST", "/moved")
    assert (second.body, second.headers) == (first.body, first.headers)


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_elsewhere_is_502_and_the_log_says_where_to(
    forwarder: Forwarder, peer: Peer, status: int, log: Log
) -> None:
    peer.reply = Reply(status, headers={"Location": "http://elsewhere.test/write?secret"})
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", PAYLOAD, 7))
    assert (caught.value.status, caught.value.answered) == (502, False)
    assert "elsewhere" not in str(caught.value)
    (event,) = log.of("the upstream sends elsewhere")
    assert "http://elsewhere.test/write" in event["reason"]
    assert "secret" not in "".join(log.lines)
    assert len(peer.received) == 1


@pytest.mark.parametrize(
    "value",
    [
        "30",
        "Wed, 21 Oct 2026 07:28:00 GMT",
        "Wednesday, 21-Oct-26 07:28:00 GMT",
        "Wed Oct 21 07:28:00 2026",
    ],
)
def test_retry_after_is_kept(forwarder: Forwarder, peer: Peer, value: str) -> None:
    peer.reply = Reply(503, headers={"Retry-After": value})
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", PAYLOAD, 7))
    assert caught.value.retry_after == value


@pytest.mark.parametrize("value", ["", "soon", "-1", b"\xff"])
def test_a_malformed_retry_after_is_not_handed_on(
    forwarder: Forwarder, peer: Peer, value: str | bytes
) -> None:
    peer.reply = Reply(503, headers={"Retry-After": value})
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", PAYLOAD, 7))
    assert caught.value.retry_after is None


def test_a_long_answer_is_cut_off_in_the_log(forwarder: Forwarder, peer: Peer, log: Log) -> None:
    peer.reply = Reply(500, b"\xff" + b"x" * 100_000)
    with pytest.raises(ForwardError):
        run(forwarder.forward("c", PAYLOAD, 7))
    (event,) = log.of("the upstream refused")
    assert event["answer"] == "\ufffd" + "x" * 499


def test_no_answer_in_5_seconds(forwarder: Forwarder, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    growth = Growth()
    forwarding = start(forwarder.forward("c", PAYLOAD, 7))
    clock.advance(4.9)
    assert not has_fired(forwarding)
    clock.advance(0.1)
    with pytest.raises(ForwardError) as caught:
        result_of(forwarding)
    assert caught.value.status == 502
    assert not caught.value.answered
    assert len(peer.received) == 1
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1
    assert growth.all_of("telemeter_v1_forward_request_duration_seconds_count") == {}
    assert clock.getDelayedCalls() == []


def test_an_answer_in_time_leaves_no_timer(forwarder: Forwarder, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    growth = Growth()
    forwarding = start(forwarder.forward("c", PAYLOAD, 7))
    clock.advance(4)
    peer.only.answer(Reply(200))
    result_of(forwarding)
    assert clock.getDelayedCalls() == []
    name = "telemeter_v1_forward_request_duration_seconds_sum"
    assert growth.of(name, status_code="200") == 4


def lost(*reasons: Exception) -> ResponseNeverReceived:
    return ResponseNeverReceived([Failure(reason) for reason in reasons])


@pytest.mark.parametrize(
    "error",
    [
        errors.ConnectionRefusedError(),
        errors.DNSLookupError("upstream.test"),
        errors.TCPTimedOutError(),
        errors.ConnectionLost(),
        lost(OSError("TLS")),
        ResponseFailed([Failure(errors.ConnectionLost())]),
        ValueError("anything"),
    ],
    ids=["refused", "no host", "timeout", "lost", "TLS", "half an answer", "anything"],
)
def test_an_upstream_that_is_not_there(clock: Clock, error: Exception, log: Log) -> None:
    agent = Broken(error)
    growth = Growth()
    with pytest.raises(ForwardError) as caught:
        run(make(agent, clock).forward("c", PAYLOAD, 7))
    assert caught.value.status == 502
    assert not caught.value.answered
    assert str(caught.value) == "the upstream did not answer"
    assert agent.requests == 1
    (event,) = log.of("the upstream did not answer")
    assert event["reason"]
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1


DEAD: list[Exception] = [
    lost(errors.ConnectionLost()),
    lost(errors.ConnectionDone()),
    lost(errors.ConnectionAborted()),
    lost(OSError(), errors.ConnectionLost()),
    RequestTransmissionFailed([Failure(errors.ConnectionLost())]),
]


@pytest.mark.parametrize("error", DEAD)
def test_a_dead_pooled_connection_is_tried_once_more(
    peer: Peer, clock: Clock, error: Exception
) -> None:
    agent = Broken(error, then=peer.agent)
    growth = Growth()
    run(make(agent, clock).forward("c", PAYLOAD, 7))
    assert agent.requests == 2
    assert decompress_block(peer.only.body, 1 << 20) == PAYLOAD
    assert growth.of("telemeter_v1_forward_requests_total", result="success") == 1
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 0


def test_it_is_tried_only_once_more(peer: Peer, clock: Clock) -> None:
    agent = Broken(*DEAD[:2], then=peer.agent)
    with pytest.raises(ForwardError) as caught:
        run(make(agent, clock).forward("c", PAYLOAD, 7))
    assert caught.value.status == 502
    assert agent.requests == 2
    assert peer.received == []


@pytest.mark.parametrize("replies", [[Reply(503), Reply(200)], [Reply(500), Reply(200)]])
def test_an_answer_is_not_asked_for_again(
    forwarder: Forwarder, peer: Peer, replies: Sequence[Reply]
) -> None:
    peer.reply = replies
    with pytest.raises(ForwardError):
        run(forwarder.forward("c", PAYLOAD, 7))
    assert len(peer.received) == 1


def test_both_tries_share_5_seconds(peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    agent = Broken(DEAD[0], then=peer.agent)
    forwarding = start(make(agent, clock).forward("c", PAYLOAD, 7))
    clock.advance(5)
    with pytest.raises(ForwardError):
        result_of(forwarding)


def test_it_can_be_given_up(forwarder: Forwarder, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    forwarding = start(forwarder.forward("c", PAYLOAD, 7))
    forwarding.cancel()
    with pytest.raises((ForwardError, CancelledError)):
        result_of(forwarding)
    assert len(peer.received) == 1
    assert clock.getDelayedCalls() == []


# --- Batches --------------------------------------------------------------------------------------


def test_requests_that_come_meanwhile_are_one(peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    forwarder = Forwarder(peer.agent, clock, URL, TENANT, BatchLimits())
    first = start(forwarder.forward("a", b"first", 1))
    rest = [start(forwarder.forward(text, text.encode(), 2)) for text in ("b", "c")]
    rest.append(start(forwarder.send("d", b"d")))
    kept = start(forwarder.send("e", b"a 2.0 request", V2))
    assert [decompress_block(got.body, 100) for got in peer.received] == [
        b"first",
        b"a 2.0 request",  # symbols are numbered, so it cannot be joined with others
    ]
    peer.received[0].answer(Reply(200))
    assert has_fired(first)
    assert decompress_block(peer.received[2].body, 100) == b"bcd"
    assert peer.received[2].headers["thanos-tenant"] == TENANT
    assert not any(map(has_fired, rest))
    growth = Growth()
    peer.received[2].answer(Reply(204))
    assert all(map(has_fired, rest))
    assert growth.of("telemeter_v1_forward_samples_total") == 4
    assert not has_fired(kept)


def test_a_refused_batch_is_the_fault_of_one(peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    forwarder = Forwarder(peer.agent, clock, URL, TENANT, BatchLimits())
    start(forwarder.forward("a", b"a", 1))
    good, bad = (start(forwarder.forward(text, text.encode(), 1)) for text in ("g", "b"))
    growth = Growth()
    for number, status in enumerate((200, 400, 200, 400)):
        peer.received[number].answer(Reply(status))
    assert [decompress_block(got.body, 100) for got in peer.received] == [b"a", b"gb", b"g", b"b"]
    result_of(good)
    with pytest.raises(ForwardError) as caught:
        result_of(bad)
    assert caught.value.status == 400
    assert growth.of("telemeter_v1_forward_requests_total", result="success") == 2
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1


def test_tenants_have_batches_of_their_own(peer: Peer, clock: Clock) -> None:
    """A batch belongs to one forwarder, which has one tenant and one agent, so one identity."""
    peer.reply = SILENCE
    for tenant in ("one", "two"):
        start(Forwarder(peer.agent, clock, URL, tenant, BatchLimits()).forward("c", b"x", 1))
    assert [got.headers["thanos-tenant"] for got in peer.received] == ["one", "two"]
