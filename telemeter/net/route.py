"""The way that each request takes: directly, through a proxy, or through a tunnel."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ProxyAgent
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IPolicyForHTTPS,
    IResponse,
)
from zope.interface import implementer

from telemeter.loop.timeouts import Timeouts
from telemeter.loop.twisted_private import NamedEndpoint
from telemeter.net.body import read_body
from telemeter.net.proxy import Proxies, Proxy
from telemeter.net.tunnel import ProxyEndpoint, TunnelEndpoint, refusal

_PROXY_AUTHENTICATION_REQUIRED = 407
_REFUSAL_LIMIT = 4096
_LONGEST_NAME = 253
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


class _TLSConnection(BufferingTLSTransport):
    """A TLS connection that ends soon after we have said so, whatever the other side does.

    Twisted waits for the other side's closing alert without a limit.
    """

    factory: _TLSFactory
    _end: IDelayedCall | None = None

    def loseConnection(self) -> None:
        super().loseConnection()
        if self.connected and self._end is None:
            self._end = self.factory.clock.callLater(
                self.factory.close_seconds, self.abortConnection
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._end is not None and self._end.active():
            self._end.cancel()
        super().connectionLost(reason)


class _TLSFactory(TLSMemoryBIOFactory):
    protocol = _TLSConnection

    def __init__(
        self, creator: Any, factory: IProtocolFactory, clock: IReactorTime, close_seconds: float
    ) -> None:
        super().__init__(creator, True, factory, clock=clock)
        self.clock = clock
        self.close_seconds = close_seconds


@implementer(IStreamClientEndpoint)
class _TLSEndpoint:
    """An endpoint with TLS over the connections of another one; `wrapClientTLS` with a clock."""

    def __init__(
        self,
        creator: IOpenSSLClientConnectionCreator,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        close_seconds: float,
    ) -> None:
        self._creator = creator
        self._endpoint = endpoint
        self._clock = clock
        self._close_seconds = close_seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        _make_quiet(protocolFactory)
        factory = _TLSFactory(self._creator, protocolFactory, self._clock, self._close_seconds)
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(lambda tls: tls.wrappedProtocol)


@implementer(IStreamClientEndpoint)
class _TCPEndpoint(NamedEndpoint):
    """An endpoint by name, which does not log every connection.

    The name may have underscores, which Twisted refuses: names of containers often have them.
    """

    @classmethod
    def is_good_name(cls, host: str) -> bool:
        return len(host) <= _LONGEST_NAME and _NAME.fullmatch(host) is not None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        _make_quiet(protocolFactory)
        connecting: Deferred[IProtocol] = super().connect(protocolFactory)
        return connecting


def _make_quiet(factory: Any) -> None:
    """Keep a factory from logging that it starts and stops, as Twisted's pools have theirs do."""
    factory.noisy = False


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Endpoints of servers and of proxies."""

    def __init__(
        self,
        reactor: Any,
        proxies: Proxies,
        policy: IPolicyForHTTPS,
        user_agent: str,
        timeouts: Timeouts,
    ) -> None:
        self._reactor = reactor
        self._proxies = proxies
        self._user_agent = user_agent
        self._policy = policy
        self._timeouts = timeouts

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return where to connect to for a request that is not sent to a proxy itself.

        TLS is spoken with the server, also through a tunnel: its certificate is verified, and the
        proxy sees nothing but the server's name.
        """
        host = uri.host.decode("ascii")
        if uri.scheme == b"http":
            return self._tcp(host, uri.port)
        if uri.scheme != b"https":
            raise SchemeNotSupported(f"Unsupported scheme: {uri.scheme!r}")
        proxy = self._proxies.proxy_to("https", host, uri.port)
        endpoint = self._tcp(host, uri.port)
        if proxy is not None:
            endpoint = TunnelEndpoint(
                self.of_proxy(proxy),
                host,
                uri.port,
                self._reactor,
                self._user_agent,
                self._timeouts.tunnel,
            )
        return self._tls(uri.host, uri.port, endpoint)

    def of_proxy(self, proxy: Proxy) -> ProxyEndpoint:
        """Return the endpoint of a proxy."""
        endpoint = self._tcp(proxy.host, proxy.port)
        if proxy.secure:
            endpoint = self._tls(proxy.host.encode("ascii"), proxy.port, endpoint)
        return ProxyEndpoint(proxy, endpoint)

    def _tls(
        self, host: bytes, port: int, endpoint: IStreamClientEndpoint
    ) -> IStreamClientEndpoint:
        creator = self._policy.creatorForNetloc(host, port)
        return _TLSEndpoint(creator, endpoint, self._reactor, self._timeouts.tls_close)

    def _tcp(self, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = _TCPEndpoint(
            self._reactor, host, port, timeout=self._timeouts.connect
        )
        return endpoint


@implementer(IAgent)
class RoutingAgent:
    """An agent that makes each request directly, or through its proxy if it has one.

    A proxy that fails, or wants another user and password, is a `ProxyError`.
    """

    def __init__(
        self,
        reactor: Any,
        proxies: Proxies,
        *,
        user_agent: str,
        pool: HTTPConnectionPool | None,
        policy: IPolicyForHTTPS,
        timeouts: Timeouts,
    ) -> None:
        """Make an agent.

        Args:
            reactor: opens the connections.
            proxies: which proxy is for what.
            user_agent: who asks: servers, and proxies for a tunnel, are told in each request.
            pool: where connections wait for the next request; None: one connection a request. To
                a proxy for http they are kept apart from direct ones.
            policy: whom to trust: servers, and proxies that are spoken to over TLS.
            timeouts: how long connecting may take.
        """
        self._proxies = proxies
        self._user_agent = user_agent
        endpoints = _Endpoints(reactor, proxies, policy, user_agent, timeouts)
        self._agent = Agent.usingEndpointFactory(reactor, endpoints, pool)
        self._http_agent: ProxyAgent | None = None
        if proxies.http is not None:
            self._http_agent = ProxyAgent(endpoints.of_proxy(proxies.http), reactor, pool)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"User-Agent", [self._user_agent])
        parsed = URI.fromBytes(uri)
        proxy = None
        if self._http_agent is not None and parsed.scheme == b"http":
            proxy = self._proxies.proxy_to("http", parsed.host.decode("ascii"), parsed.port)
        if self._http_agent is None or proxy is None:
            direct: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
            return direct
        if proxy.authorization is not None:
            headers.setRawHeaders(b"Proxy-Authorization", [proxy.authorization])
        # A fragment is not for others; ProxyAgent would send it.
        answered: Deferred[IResponse] = self._http_agent.request(
            method, uri.partition(b"#")[0], headers, bodyProducer
        )
        return answered.addCallback(_check_authenticated, proxy)


def _check_authenticated(response: IResponse, proxy: Proxy) -> IResponse | Deferred[IResponse]:
    """Refuse an answer that comes from a proxy, not from the server: it wants a password."""
    if response.code != _PROXY_AUTHENTICATION_REQUIRED:
        return response
    error = refusal(proxy, "the request", response.code)
    # What it says is read, so that the connection can be used again.
    read = read_body(response, _REFUSAL_LIMIT)
    return read.addBoth(lambda _: Failure(error))
