"""CONNECT: what a proxy is asked, and what becomes of its answers."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, NoProtocol
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from telemeter.net.errors import ProxyError, explain
from telemeter.net.proxy import Proxy
from telemeter.net.tunnel import HEAD_LIMIT, ProxyEndpoint, TunnelEndpoint
from tests.fakes import FakeTransport, result_of
from tests.net.network import End, Ends

BASIC = b"Basic " + base64.b64encode(b"user:password")

SECONDS = 7.0


@implementer(IStreamClientEndpoint)
class Line:
    """A connection to a proxy, and what is connected through it."""

    def __init__(
        self, proxy: Proxy | None = None, host: str = "target.test", inner: Factory | None = None
    ) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.inner = Ends()
        self.protocol: Any = None
        proxy = proxy or Proxy("proxy.test", 3128)
        tunnel = TunnelEndpoint(
            ProxyEndpoint(proxy, self), host, 443, self.clock, "program/1.0", SECONDS
        )
        self.opened: Deferred[Any] = tunnel.connect(inner or self.inner)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Be the endpoint of the proxy."""
        self.protocol = protocolFactory.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)
        done: Deferred[Any] = Deferred()
        done.callback(self.protocol)
        return done

    def answer(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.transport.disconnected:
                self.protocol.dataReceived(piece)

    def end(self) -> End:
        """This end of the open tunnel."""
        end: Any = result_of(self.opened)
        assert self.inner.made == [end]
        assert end.transport is self.transport
        assert not self.clock.getDelayedCalls()
        assert isinstance(end, End)
        return end

    def refusal(self) -> str:
        """Why there is no tunnel; the connection is closed then."""
        with pytest.raises(ProxyError) as caught:
            result_of(self.opened)
        assert self.transport.disconnected
        assert not self.clock.getDelayedCalls()
        assert not self.inner.made
        return explain(caught.value)


OK = b"HTTP/1.1 200 Connection established\r\n\r\n"
NO_TUNNEL = "the proxy proxy.test:3128 did not open a tunnel to target.test:443: "


@pytest.mark.parametrize(
    ("host", "shown"), [("target.test", b"target.test:443"), ("2001:db8::1", b"[2001:db8::1]:443")]
)
def test_what_is_asked(host: str, shown: bytes) -> None:
    line = Line(host=host)
    head = line.transport.value()
    assert re.fullmatch(
        rb"CONNECT %b HTTP/1\.1\r\nHost: %b\r\nUser-Agent: program/1.0\r\n\r\n"
        % (re.escape(shown), re.escape(shown)),
        head,
    ), head
    line.answer(OK)
    line.end()


def test_user_and_password_are_shown_to_the_proxy() -> None:
    line = Line(Proxy("proxy.test", 3128, authorization=BASIC))
    assert b"\r\nProxy-Authorization: " + BASIC + b"\r\n" in line.transport.value()
    line.transport.clear()
    line.answer(OK)
    line.end().send(b"through the tunnel")
    assert line.transport.value() == b"through the tunnel"


@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.1 204 Fine\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_LIMIT - 24) + b"\r\n\r\n",
    ],
)
def test_an_open_tunnel(head: bytes) -> None:
    for pieces in ([head], [head[i : i + 1] for i in range(len(head))][-300:]):
        line = Line()
        line.answer(head[: len(head) - sum(map(len, pieces))], *pieces)
        end = line.end()
        assert end.received == b""
        line.answer(b"through ", b"the tunnel")
        assert end.received == b"through the tunnel"


def test_what_comes_behind_the_head_comes_through_the_tunnel() -> None:
    line = Line()
    line.answer(OK + b"early, ", b"late")
    assert line.end().received == b"early, late"


def test_the_end_of_a_tunnel() -> None:
    line = Line()
    line.answer(OK)
    end = line.end()
    line.protocol.connectionLost(Failure(ConnectionDone()))
    assert isinstance(end.lost, ConnectionDone)
    line.answer(b"too late")
    assert end.received == b""


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, ": check the user and password in https_proxy"),
        (407, ": check the user and password in https_proxy"),
        (403, ": its rules do not allow this"),
        (500, ": perhaps it cannot connect there"),
        (502, ": perhaps it cannot connect there"),
        (101, ""),
        (301, ""),
        (400, ""),
        (404, ""),
        (599, ""),
    ],
)
def test_a_refusal(status: int, hint: str) -> None:
    line = Line(Proxy("proxy.test", 3128, variable="https_proxy", authorization=BASIC))
    line.answer(b"HTTP/1.1 %d No secret\r\nContent-Length: 3\r\n\r\nwhy" % status, b"more")
    assert line.refusal() == (
        f"the proxy proxy.test:3128 refused CONNECT to target.test:443 with status {status}{hint}"
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"H2TP/1.1 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\r\n\r\n" + OK,
        b" " + OK,
        b"x",
    ],
)
def test_garbage(answer: bytes) -> None:
    line = Line()
    line.answer(*(answer[i : i + 1] for i in range(len(answer))))
    assert line.refusal() == NO_TUNNEL + "its answer is not HTTP/1"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 \r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 200\nOK\r\n\r\n",
        b"HTTP/1.1\r\n200 OK\r\n\r\n",
    ],
)
def test_a_malformed_status_line(answer: bytes) -> None:
    line = Line()
    line.answer(answer)
    assert line.refusal() == NO_TUNNEL + "its answer has a malformed status line"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_LIMIT],
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_LIMIT - 23) + b"\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n"] + [b"X: y\r\n"] * HEAD_LIMIT,
        # Interim answers do not begin it anew.
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * HEAD_LIMIT,
    ],
)
def test_an_answer_that_is_too_long(pieces: list[bytes]) -> None:
    line = Line()
    line.answer(*pieces)
    assert line.refusal() == NO_TUNNEL + "the head of its answer is over 16384 bytes"


def test_a_proxy_that_is_too_slow() -> None:
    line = Line()
    line.clock.advance(SECONDS - 0.1)
    line.answer(OK[:-1])
    assert not line.transport.disconnected
    line.clock.advance(0.1)
    assert line.refusal() == NO_TUNNEL + "no answer in 7 seconds"
    line.protocol.dataReceived(OK[-1:])
    line.protocol.connectionLost(Failure(ConnectionDone()))


def test_somebody_does_not_wait_so_long() -> None:
    line = Line()
    line.opened.addTimeout(5, line.clock)
    line.clock.advance(5)
    assert line.refusal() == NO_TUNNEL + "no answer in time"


@pytest.mark.parametrize("pieces", [[], [OK[:-1]]])
def test_a_proxy_that_hangs_up(pieces: list[bytes]) -> None:
    line = Line()
    line.answer(*pieces)
    line.protocol.connectionLost(Failure(ConnectionDone()))
    line.transport.abortConnection()
    assert line.refusal() == NO_TUNNEL + "it closed the connection instead of an answer"


def test_nothing_for_the_tunnel() -> None:
    class Nothing(Factory):
        def buildProtocol(self, addr: object) -> None:
            return None

    line = Line(inner=Nothing())
    line.answer(OK)
    with pytest.raises(NoProtocol):
        result_of(line.opened)
    assert line.transport.disconnected
