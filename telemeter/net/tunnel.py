"""Tunnels through HTTP proxies: CONNECT (RFC 9110, section 9.3.6)."""

from __future__ import annotations

import re
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from telemeter.net.errors import ProxyError, explain
from telemeter.net.proxy import Proxy, host_and_port

#: How many bytes the head of a proxy's answer may have.
HEAD_LIMIT: Final = 16 * 1024

_HINTS: Final = {
    401: ": check the user and password in {variable}",  # tinyproxy, to wrong ones
    403: ": its rules do not allow this",
    407: ": check the user and password in {variable}",
    500: ": perhaps it cannot connect there",
    502: ": perhaps it cannot connect there",
    503: ": perhaps it cannot connect there",
    504: ": perhaps it cannot connect there",
}
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r\n")
_BEGINNING: Final = b"HTTP/1."
_END: Final = b"\r\n\r\n"


def refusal(proxy: Proxy, what: str, status: int) -> ProxyError:
    """Return a proxy's refusal in words.

    Args:
        proxy: which one.
        what: what it was asked for.
        status: its HTTP status.
    """
    hint = _HINTS.get(status, "").format(variable=proxy.variable)
    return ProxyError(f"the proxy {proxy} refused {what} with status {status}{hint}")


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """The endpoint of a proxy; a failure to connect names it."""

    def __init__(self, proxy: Proxy, endpoint: IStreamClientEndpoint) -> None:
        self.proxy = proxy
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the proxy; fails with `ProxyError`."""
        return self._endpoint.connect(protocolFactory).addErrback(self._failed)

    def _failed(self, failure: Failure) -> IProtocol:
        assert failure.value is not None
        raise ProxyError(f"the proxy {self.proxy}: {explain(failure.value)}") from None


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """A server that is reached through a tunnel."""

    def __init__(
        self,
        endpoint: ProxyEndpoint,
        host: str,
        port: int,
        clock: IReactorTime,
        user_agent: str,
        seconds: float,
    ) -> None:
        """Make an endpoint.

        Args:
            endpoint: of the proxy.
            host: the server's name or IP address, as the proxy knows it.
            port: the server's TCP port.
            clock: times the proxy.
            user_agent: who asks for the tunnel.
            seconds: how long it may take to open the tunnel, once it is connected.
        """
        self._endpoint = endpoint
        self._target = host_and_port(host, port)
        self._clock = clock
        self._user_agent = user_agent
        self._seconds = seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol through a new tunnel.

        Returns:
            The protocol, once the tunnel is open; or `ProxyError`, after which the connection to
            the proxy is closed. Cancelling closes it too.
        """
        tunnel = _Tunnel(
            self._endpoint.proxy,
            self._target,
            protocolFactory,
            self._clock,
            self._user_agent,
            self._seconds,
        )
        return self._endpoint.connect(_OneTunnel(tunnel)).addCallback(lambda _: tunnel.opened)


class _OneTunnel(Factory):
    noisy = False

    def __init__(self, tunnel: _Tunnel) -> None:
        self._tunnel = tunnel

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._tunnel


class _Tunnel(Protocol):
    """A tunnel, which is asked for and then passes on what comes through it.

    Attributes:
        opened: fires with the protocol at this end of the tunnel.
    """

    def __init__(
        self,
        proxy: Proxy,
        target: str,
        factory: IProtocolFactory,
        clock: IReactorTime,
        user_agent: str,
        seconds: float,
    ) -> None:
        self.opened: Deferred[IProtocol] = Deferred(lambda _: self._give_up("no answer in time"))
        self._proxy = proxy
        self._target = target
        self._factory = factory
        self._clock = clock
        self._user_agent = user_agent
        self._seconds = seconds
        self._head = b""
        self._room = HEAD_LIMIT
        self._timer: IDelayedCall | None = None
        self._inner: IProtocol | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._timer = self._clock.callLater(
            self._seconds, self._give_up, f"no answer in {self._seconds:g} seconds"
        )
        target = self._target.encode("ascii")
        lines = [
            b"CONNECT %b HTTP/1.1" % target,
            b"Host: " + target,
            b"User-Agent: " + self._user_agent.encode("ascii"),
        ]
        if self._proxy.authorization is not None:
            lines.append(b"Proxy-Authorization: " + self._proxy.authorization)
        self.transport.write(b"\r\n".join(lines) + _END)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self.opened.called:
            self._head += data
            self._read_heads()

    def _read_heads(self) -> None:
        """Read what has come of the answer; interim answers (1xx) may come before it."""
        while not self.opened.called:
            if self._head[: len(_BEGINNING)] != _BEGINNING[: len(self._head)]:
                self._give_up("its answer is not HTTP/1")
                return
            head, end, rest = self._head.partition(_END)
            if len(head) + len(end) > self._room:
                self._give_up(f"the head of its answer is over {HEAD_LIMIT} bytes")
                return
            if not end:
                return
            self._room -= len(head) + len(end)
            self._head = rest
            status_line = _STATUS_LINE.match(head + end)
            if status_line is None:
                self._give_up("its answer has a malformed status line")
                return
            status = int(status_line[1])
            if 200 <= status < 300:
                self._open()
            elif status >= 200 or status == 101:
                self._drop(refusal(self._proxy, f"CONNECT to {self._target}", status))

    def _open(self) -> None:
        """Hand the connection on; what came behind the head is the first of the tunnel."""
        assert self.transport is not None
        self._stop_timer()
        try:
            inner = self._factory.buildProtocol(self.transport.getPeer())
            if inner is None:
                raise NoProtocol
        except Exception:
            self._drop(Failure())
            return
        self._inner = inner
        early, self._head = self._head, b""
        inner.makeConnection(self.transport)
        self.opened.callback(inner)
        if early:
            inner.dataReceived(early)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connectionLost(reason)
        if not self.opened.called:
            assert reason.value is not None
            why = "it closed the connection instead of an answer"
            if not reason.check(ConnectionDone, ConnectionLost):
                why = explain(reason.value)
            self._fail(self._without_tunnel(why))

    def _give_up(self, why: str) -> None:
        self._drop(self._without_tunnel(why))

    def _without_tunnel(self, why: str) -> ProxyError:
        return ProxyError(f"the proxy {self._proxy} did not open a tunnel to {self._target}: {why}")

    def _drop(self, error: ProxyError | Failure) -> None:
        """Close the connection, and fail."""
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]
        self._fail(error)

    def _fail(self, error: ProxyError | Failure) -> None:
        self._stop_timer()
        self.opened.errback(error)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
