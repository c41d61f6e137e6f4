"""HTTP clients: pooled connections, and metrics by client."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from telemeter import __version__
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.loop.twisted_private import ConnectionPool
from telemeter.net.connection import ConnectionFactory
from telemeter.net.proxy import Proxies
from telemeter.net.route import RoutingAgent
from telemeter.net.tls import ClientPolicy

IN_FLIGHT = Gauge(
    "client_in_flight_requests",
    "Outgoing requests that wait for their answer.",
    ["client"],
    multiprocess_mode="livesum",
)
REQUESTS = Counter(
    "client_api_requests_total",
    "Outgoing requests that were answered.",
    ["code", "method", "client"],
)
DURATION = Histogram(
    "request_duration_seconds", "How long outgoing requests took.", ["method", "client"]
)

_MAX_IDLE_PER_HOST = 32


class _Pool(ConnectionPool):
    """Connections that are used again.

    What comes over them is held against HTTP/1.1, and bounded: see `telemeter.net.connection`.
    Nothing is asked again here: that is decided in one place, `telemeter.net.exchange`.
    """

    retryAutomatically = False

    def connectionFactory(self, quiescent: Any, metadata: Any) -> ConnectionFactory:
        # Where one has turned out to be closed, the others probably are too.
        return ConnectionFactory(quiescent, self.closeCachedConnections)


def make_pool(reactor: Any, timeouts: Timeouts = TIMEOUTS) -> HTTPConnectionPool:
    """Return a pool of persistent connections.

    A request that meets one that is just being closed is made again by `exchange`.
    """
    pool = _Pool(reactor, persistent=True)
    pool.maxPersistentPerHost = _MAX_IDLE_PER_HOST
    pool.cachedConnectionTimeout = timeouts.keep_idle  # type: ignore[assignment]
    return pool


def make_agent(
    reactor: Any,
    name: str,
    program: str,
    *,
    pool: HTTPConnectionPool | None = None,
    policy: IPolicyForHTTPS | None = None,
    proxies: Proxies | None = None,
    timeouts: Timeouts = TIMEOUTS,
) -> IAgent:
    """Return an agent that opens connections as the pool, the TLS policy and the proxies say.

    Args:
        reactor: opens the connections.
        name: the value of the label `client` in the metrics.
        program: which program asks, for the header User-Agent.
        pool: where connections wait for the next request; None: one connection a request. Agents
            with different policies or proxies need different pools, which know of neither.
        policy: whom to trust; None: the system's certificate authorities.
        proxies: what to go through; None: everything is reached directly.
        timeouts: how long connecting may take.
    """
    agent = RoutingAgent(
        reactor,
        Proxies() if proxies is None else proxies,
        user_agent=f"{program}/{__version__}",
        pool=_Pool(reactor, persistent=False) if pool is None else pool,
        policy=ClientPolicy() if policy is None else policy,
        timeouts=timeouts,
    )
    return InstrumentedAgent(agent, name, reactor)


@implementer(IAgent)
class InstrumentedAgent:
    """An agent that counts and times the requests of another one."""

    def __init__(self, agent: IAgent, name: str, clock: IReactorTime) -> None:
        self._agent = agent
        self._name = name
        self._clock = clock
        self._in_flight = IN_FLIGHT.labels(name)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        began = self._clock.seconds()
        self._in_flight.inc()
        verb = method.decode("ascii").lower()

        def answered(result: IResponse | Failure) -> IResponse | Failure:
            self._in_flight.dec()
            if not isinstance(result, Failure):
                count, duration = _meters(result.code, verb, self._name)
                count.inc()
                duration.observe(self._clock.seconds() - began)
            return result

        return self._agent.request(method, uri, headers, bodyProducer).addBoth(answered)


@lru_cache(1024)
def _meters(code: int, verb: str, name: str) -> tuple[Counter, Histogram]:
    """Return what counts answers of a kind; to look that up in each metric takes its time."""
    return REQUESTS.labels(str(code), verb, name), DURATION.labels(verb, name)
