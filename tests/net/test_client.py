"""Outgoing requests are counted and timed; connections are pooled."""

from __future__ import annotations

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface.verify import verifyObject

from telemeter.net.body import BytesBody, read_body
from telemeter.net.client import InstrumentedAgent, make_agent, make_pool
from tests.fakes import SILENCE, Broken, Growth, Peer, Reply, has_fired, result_of
from tests.tap.world import FakeReactor

URL = b"http://x.test/"


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def agent(peer: Peer, clock: Clock) -> InstrumentedAgent:
    return InstrumentedAgent(peer.agent, "test", clock)


def test_it_is_an_agent(agent: InstrumentedAgent) -> None:
    assert verifyObject(IAgent, agent)


@pytest.mark.parametrize("status", [200, 204, 302, 404, 503])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_answers_are_counted_by_status_and_method(
    agent: InstrumentedAgent, peer: Peer, status: int, method: bytes
) -> None:
    peer.reply = Reply(status)
    growth = Growth()
    assert result_of(agent.request(method, URL)).code == status
    labels = {"client": "test", "method": method.decode().lower()}
    assert growth.of("client_api_requests_total", code=str(status), **labels) == 1
    assert growth.of("request_duration_seconds_count", **labels) == 1


def test_requests_are_in_flight_until_they_are_answered(
    agent: InstrumentedAgent, peer: Peer, clock: Clock
) -> None:
    peer.reply = SILENCE
    growth = Growth()
    requests = [agent.request(b"GET", URL) for _ in range(2)]
    assert growth.of("client_in_flight_requests", client="test") == 2
    clock.advance(1.5)
    for received in peer.received:
        received.answer(Reply(200))
    assert [result_of(request).code for request in requests] == [200, 200]
    assert growth.of("client_in_flight_requests", client="test") == 0
    assert growth.of("request_duration_seconds_sum", client="test", method="get") == 3


def test_failures_end_requests_and_are_no_answers(clock: Clock) -> None:
    agent = InstrumentedAgent(Broken(errors.ConnectionRefusedError()), "broken", clock)
    growth = Growth()
    with pytest.raises(errors.ConnectionRefusedError):
        result_of(agent.request(b"GET", URL))
    assert growth.of("client_in_flight_requests", client="broken") == 0
    grown = growth.all_of("client_api_requests_total")
    assert not [labels for labels in grown if ("client", "broken") in labels]


def test_what_is_given_up_is_in_flight_no_more(agent: InstrumentedAgent, peer: Peer) -> None:
    peer.reply = SILENCE
    growth = Growth()
    request = agent.request(b"GET", URL)
    request.addErrback(lambda _: None)
    request.cancel()
    assert growth.of("client_in_flight_requests", client="test") == 0


def test_everything_is_passed_on(clock: Clock) -> None:
    seen: list[object] = []

    class Recorder:
        def request(
            self,
            method: bytes,
            uri: bytes,
            headers: Headers | None = None,
            bodyProducer: IBodyProducer | None = None,
        ) -> Deferred[IResponse]:
            seen.extend((method, uri, headers, bodyProducer))
            return Deferred()

    headers, body = Headers({"A": ["b"]}), BytesBody(b"c")
    agent = InstrumentedAgent(Recorder(), "test", clock)  # type: ignore[arg-type]
    agent.request(b"PUT", URL, headers, body)
    assert seen == [b"PUT", URL, headers, body]


def test_an_answer_can_be_read(agent: InstrumentedAgent, peer: Peer) -> None:
    peer.reply = Reply(200, b"body")
    response = result_of(agent.request(b"GET", URL))
    assert result_of(read_body(response, 10)) == b"body"


def test_a_pool_keeps_connections_for_half_a_minute() -> None:
    pool = make_pool(MemoryReactorClock())
    assert isinstance(pool, HTTPConnectionPool)
    assert pool.persistent
    assert pool.cachedConnectionTimeout == 30
    assert pool.maxPersistentPerHost == 32


def test_a_connection_that_is_not_made_in_10_seconds_is_given_up() -> None:
    reactor = FakeReactor()
    agent = make_agent(reactor, "test", "program", pool=make_pool(reactor))
    request = agent.request(b"GET", b"http://127.0.0.1:9/")
    ((host, port, _, timeout, _),) = reactor.tcpClients
    assert (host, port, timeout) == ("127.0.0.1", 9, 10)
    assert not has_fired(request)
    request.addErrback(lambda _: None)
    request.cancel()
