"""Requests that show an access token, and those who make them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionRefusedError  # noqa: A004
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from telemeter.auth.authorization_server import AuthorizationServer, RefusedError, UnavailableError
from telemeter.auth.oidc import OIDCAgent, TokenSource
from telemeter.net.body import BytesBody, read_body
from telemeter.net.upstream import ForwardError
from telemeter.upstream.forwarder import Forwarder
from tests.auth.oidc.world import (
    ENDPOINT,
    ISSUER,
    Issuer,
    make_source,
    take_time,
    token_reply,
    unavailable,
)
from tests.fakes import (
    SILENCE,
    Broken,
    Log,
    Peer,
    Reply,
    clock_at,
    json_reply,
    result_of,
    run,
    start,
)
from tests.web.server import Server, up

# --- The agent ------------------------------------------------------------------------------------


def ask(agent: IAgent, body: IBodyProducer | None = None, **headers: str) -> Any:
    fields = Headers({name: [value] for name, value in headers.items()})
    before = list(fields.getAllRawHeaders())
    answer = agent.request(b"POST", b"http://peer.test/path", fields, body)
    # What was given is not touched, now or later.
    return answer.addBoth(
        lambda result: result if list(fields.getAllRawHeaders()) == before else None
    )


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def agent(peer: Peer, source: TokenSource) -> OIDCAgent:
    return OIDCAgent(peer.agent, source)


def tokens_of(peer: Peer) -> list[str]:
    return [each.headers["authorization"].removeprefix("Bearer ") for each in peer.received]


def test_every_request_shows_the_token(agent: OIDCAgent, peer: Peer) -> None:
    response = result_of(ask(agent, BytesBody(b"body"), Accept="x", Authorization="Basic old"))
    assert response.code == 200
    assert (peer.only.method, peer.only.target, peer.only.body) == ("POST", "/path", b"body")
    assert peer.only.headers["accept"] == "x"
    assert tokens_of(peer) == ["token-1"]


def test_a_request_without_headers_and_body(agent: OIDCAgent, peer: Peer) -> None:
    result_of(agent.request(b"GET", b"http://peer.test/"))
    assert tokens_of(peer) == ["token-1"]


def test_a_401_is_asked_again_with_another_token(agent: OIDCAgent, peer: Peer) -> None:
    peer.reply = [Reply(401, b"no"), Reply(200, b"yes")]
    response = result_of(ask(agent, BytesBody(b"body"), Accept="x"))
    assert response.code == 200
    assert result_of(read_body(response, 100)) == b"yes"
    assert tokens_of(peer) == ["token-1", "token-2"]
    assert [each.body for each in peer.received] == [b"body", b"body"]
    assert [each.headers["accept"] for each in peer.received] == ["x", "x"]
    # The new one is for all.
    result_of(ask(agent))
    assert tokens_of(peer)[-1] == "token-2"


@pytest.mark.parametrize("status", [200, 204, 400, 403, 407, 429, 500])
def test_other_answers_are_final(status: int, agent: OIDCAgent, peer: Peer) -> None:
    peer.reply = Reply(status)
    assert result_of(ask(agent, BytesBody(b"body"))).code == status
    assert len(peer.received) == 1


def test_a_second_401_is_final(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    peer.reply = Reply(401, b"no")
    for _ in range(3):
        response = result_of(ask(agent, BytesBody(b"body")))
        assert response.code == 401
        assert result_of(read_body(response, 100)) == b"no"
    # The token is new: another would be no better, so neither server is bothered.
    assert tokens_of(peer) == ["token-1", "token-2", "token-2", "token-2"]
    assert len(issuer.asked) == 2


def test_a_burst_of_401s_is_one_renewal(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    peer.reply = SILENCE
    waiting = [ask(agent, BytesBody(b"body")) for _ in range(10)]
    peer.reply = Reply(200)
    for each in list(peer.received):
        each.answer(Reply(401))
    assert [result_of(each).code for each in waiting] == [200] * 10
    assert tokens_of(peer) == ["token-1"] * 10 + ["token-2"] * 10
    assert len(issuer.asked) == 2


def test_an_issuer_that_gives_the_same_token_again(
    agent: OIDCAgent, peer: Peer, issuer: Issuer
) -> None:
    issuer.endpoint.reply = token_reply("same")
    peer.reply = Reply(401, b"no")
    response = result_of(ask(agent, BytesBody(b"body")))
    assert (response.code, result_of(read_body(response, 100))) == (401, b"no")
    assert len(issuer.asked) == 2
    assert len(peer.received) == 1


@implementer(IBodyProducer)
class Once:
    """A body that is gone when it has been sent."""

    def __init__(self, data: bytes) -> None:
        self._body = BytesBody(data)
        self.length = len(data)
        self.sent = 0

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.sent += 1
        return self._body.startProducing(consumer)

    def stopProducing(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


def test_a_body_that_cannot_be_sent_twice(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    peer.reply = [Reply(401, b"no"), Reply(200)]
    body = Once(b"body")
    response = result_of(ask(agent, body))
    assert (response.code, result_of(read_body(response, 100))) == (401, b"no")
    assert body.sent == 1
    # But the token is replaced for the next.
    result_of(ask(agent))
    result_of(ask(agent))
    assert tokens_of(peer) == ["token-1", "token-1", "token-2"]


def test_no_request_without_a_token(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    issuer.discovery.reply = Reply(404)
    with unavailable("404"):
        result_of(ask(agent))
    assert peer.received == []


def test_no_second_request_without_another_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer, clock: Clock
) -> None:
    issuer.endpoint.reply = [token_reply("a"), Reply(500)]
    peer.reply = Reply(401)
    asking = ask(agent, BytesBody(b"body"))
    take_time(clock, 2)
    with unavailable("500"):
        result_of(asking)
    assert len(peer.received) == 1


def test_a_request_that_fails(source: TokenSource) -> None:
    agent = OIDCAgent(Broken(ConnectionRefusedError()), source)
    with pytest.raises(ConnectionRefusedError):
        result_of(ask(agent))


def test_a_request_that_is_cancelled_while_it_waits_for_a_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer
) -> None:
    issuer.endpoint.reply = SILENCE
    cancelled, kept = ask(agent), ask(agent)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        result_of(cancelled)
    issuer.asked[0].answer(token_reply("a"))
    assert result_of(kept).code == 200
    assert len(peer.received) == 1


class Refusal:
    """A 401 whose body arrives when it is told to.

    Attributes:
        closed: whether its connection was closed.
        read: whether its body was asked for.
    """

    code = 401

    def __init__(self, body: bytes | None = None) -> None:
        self.closed = False
        self.read = False
        self._body = body

    def deliverBody(self, protocol: Protocol) -> None:
        self.read = True
        protocol.makeConnection(self)
        if self._body is not None:
            protocol.dataReceived(self._body)
            protocol.connectionLost(Failure(ResponseDone()))

    def loseConnection(self) -> None:
        self.closed = True


@implementer(IAgent)
class Refusing:
    """An agent that answers with what it was given, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        return succeed(self._answers.pop(0))


@pytest.mark.parametrize(("body", "closed"), [(b"", False), (b"no", False), (None, True)])
def test_the_first_answer_does_not_keep_its_connection(
    body: bytes | None, closed: bool, source: TokenSource
) -> None:
    first, second = Refusal(body), Refusal()
    assert result_of(ask(OIDCAgent(Refusing(first, second), source))) is second
    assert (first.read, first.closed) == (True, closed)
    assert not second.read


@pytest.mark.parametrize(("body", "closed"), [(b"no", False), (None, True)])
def test_an_answer_that_is_not_handed_out_does_not_keep_its_connection(
    body: bytes | None, closed: bool, issuer: Issuer, source: TokenSource
) -> None:
    issuer.endpoint.reply = [token_reply("a"), SILENCE]
    first = Refusal(body)
    asking = ask(OIDCAgent(Refusing(first), source))
    assert not first.read
    asking.cancel()
    with pytest.raises(CancelledError):
        result_of(asking)
    assert (first.read, first.closed) == (True, closed)


# --- What uses it ---------------------------------------------------------------------------------


def test_a_forward_without_a_token(agent: OIDCAgent, issuer: Issuer, clock: Clock) -> None:
    forwarder = Forwarder(agent, clock, "http://peer.test/write", "tenant")
    run(forwarder.forward("c", b"", 1))
    clock.advance(1001)
    issuer.endpoint.reply = Reply(404)
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", b"", 1))
    error = caught.value
    assert (error.status, error.retry_after, error.answered) == (502, "30", False)
    assert "404" not in str(error)


def test_a_forward_while_the_issuer_is_slow(agent: OIDCAgent, issuer: Issuer, clock: Clock) -> None:
    issuer.endpoint.reply = SILENCE
    forwarder = Forwarder(agent, clock, "http://peer.test/write", "tenant")
    forwarding = start(forwarder.forward("c", b"", 1))
    take_time(clock, 4)
    with pytest.raises(ForwardError) as caught:
        result_of(forwarding)
    assert (caught.value.status, caught.value.retry_after) == (502, "30")


def test_an_upload_without_a_token(issuer: Issuer, log: Log) -> None:
    clock = clock_at()
    upstream = Peer()
    agent = OIDCAgent(upstream.agent, make_source(issuer, clock))
    server = Server(clock=clock, forward_agent=agent)
    issuer.discovery.reply = Reply(404)
    answer = server.upload(up())
    assert (answer.status, answer.headers["retry-after"]) == (502, "30")
    assert "issuer" not in answer.text
    (event,) = log.of("no access token for the upstream")
    assert "404" in event["reason"]
    # The failure did not use up the cluster's turn.
    issuer.discovery.reply = json_reply({"issuer": ISSUER, "token_endpoint": ENDPOINT})
    clock.advance(2)
    assert server.upload(up()).status == 200
    assert tokens_of(upstream) == ["token-1"]


def test_the_authorization_server_is_shown_the_token(
    agent: OIDCAgent, peer: Peer, clock: Clock
) -> None:
    peer.reply = [Reply(401), json_reply({"account_id": "account-1"})]
    server = AuthorizationServer(agent, clock, "http://peer.test/tb")
    assert run(server.authorize("cluster-token", "cluster-1")) == "account-1"
    assert tokens_of(peer) == ["token-1", "token-2"]
    question = {"cluster_id": "cluster-1", "authorization_token": "cluster-token"}
    assert [each.json for each in peer.received] == [question, question]


def test_an_authorization_without_a_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer, clock: Clock
) -> None:
    issuer.discovery.reply = Reply(404)
    server = AuthorizationServer(agent, clock, "http://peer.test/tb")
    with pytest.raises(UnavailableError, match=r"no access token .* saw 404"):
        run(server.authorize("cluster-token", "cluster-1"))
    assert peer.received == []


def test_who_is_refused_does_not_cost_the_others_their_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer, clock: Clock
) -> None:
    # The authorization server says 401 to a cluster's bad token, too.
    server = AuthorizationServer(agent, clock, "http://peer.test/tb")
    peer.reply = Reply(401)
    for _ in range(20):
        with pytest.raises(RefusedError, match="unauthorized"):
            run(server.authorize("bad", "cluster-1"))
    assert len(issuer.asked) == 2
    clock.advance(10)
    issuer.endpoint.reply = Reply(404)
    with pytest.raises(UnavailableError):
        run(server.authorize("bad", "cluster-1"))
    peer.reply = json_reply({"account_id": "account-1"})
    assert run(server.authorize("good", "cluster-1")) == "account-1"
