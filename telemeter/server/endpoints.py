"""The endpoints of a server: which paths clients and operators see, and what answers them.

Two lists hold all routes: `Endpoints.client_routes` and `operator_routes`, and in the latter
`Fleet.routes` (`telemeter.server.fleet`) those that show the fleet. To add an endpoint, write a
module in `telemeter/web/` and name its route in one of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.registry import Collector
from twisted.application.internet import TimerService
from twisted.internet.interfaces import IStreamServerEndpoint

from telemeter.auth.cache import AskParent
from telemeter.auth.keys import SigningKey
from telemeter.auth.memcached import Memcached
from telemeter.auth.token import TokenIssuer, TokenVerifier
from telemeter.config.server import ServerConfig
from telemeter.convert.sieve import WriteRules
from telemeter.convert.upload import UploadRules
from telemeter.limits.inflight import InFlight
from telemeter.limits.ratelimit import RateLimiter, Table
from telemeter.limits.replicas import Memcache, Replicas
from telemeter.loop.clocks import WallClock
from telemeter.loop.memory import MemoryReturn
from telemeter.loop.reactor import IDaemonReactor
from telemeter.loop.threads import Runner, one_at_a_time, thread_runner
from telemeter.net.reloadable import ReloadableServerContext
from telemeter.net.upstream import Upstream
from telemeter.samples.errors import BadInputError
from telemeter.server.clients import AgentMaker, Clients
from telemeter.server.fleet import Fleet
from telemeter.server.token_check import token_check
from telemeter.store.store import Store
from telemeter.web.authorize import Authorize
from telemeter.web.debug import debug_routes
from telemeter.web.federate import federate_route
from telemeter.web.fleet_observer import AttemptObserver
from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.receive import ReceiveEndpoint, ReceiveSettings
from telemeter.web.refusals import count_refused_upload
from telemeter.web.reload import reload_route
from telemeter.web.site.listener import Listener
from telemeter.web.site.routing import Route, make_site
from telemeter.web.upload import UploadEndpoint

#: The least time between two looks for clusters of the store that have gone silent, in seconds.
_EXPIRE_SECONDS: Final = 10.0
#: How often the metrics show what waits for the upstream, in seconds.
_SHOW_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Shared:
    """The things that processes of one server have in common.

    Attributes:
        key: signs and verifies tokens when no file has a key.
        table: who has uploaded when; None: a table of this process.
        ask: asks the process that keeps the authorization server's answers about remote-write
            tokens; None: this process keeps them.
        observer: observes what clients are answered; None: nobody does.
    """

    key: SigningKey
    table: Table | None = None
    ask: AskParent | None = None
    observer: AttemptObserver | None = None


@dataclass(frozen=True, slots=True)
class Seams:
    """The places where tests put something else in: None stands for the real thing.

    Attributes:
        make_agent: makes the agents that ask other servers.
        run: runs functions in threads.
        memcache: what replicas share.
    """

    make_agent: AgentMaker | None = None
    run: Runner | None = None
    memcache: Memcache | None = None


class Endpoints:
    """The endpoints for clients, in one process.

    Attributes:
        health: of this process.
        clients: what this process asks.
        tls: what the listener for clients shows.
        store: keeps what is not forwarded; None: everything is.
        rate_limiter: decides whether a cluster may upload now.
        memory_return: a service that gives memory back to the system after a peak.
        queue_metrics: a service that shows what waits for the upstream in the metrics; None:
            nothing is forwarded.
        store_expiry: a service that forgets what is too old in the store; None: there is none.
        memcached: a service that keeps what replicas share; None: they share nothing.
    """

    def __init__(
        self,
        config: ServerConfig,
        reactor: IDaemonReactor,
        wall: WallClock,
        shared: Shared,
        seams: Seams | None = None,
    ) -> None:
        """Wire the endpoints; nothing is started.

        Args:
            config: the configuration.
            reactor: what they run on.
            wall: tells the time of day.
            shared: what they have in common with other processes.
            seams: what tests put in.
        """
        seams = seams or Seams()
        run = seams.run or thread_runner(reactor, BadInputError)
        self._config = config
        self._reactor = reactor
        self._shared = shared
        convert = one_at_a_time(run, reactor)
        self.clients = Clients(config, reactor, run, seams.make_agent)
        self.store: Store | None = None
        self.store_expiry: TimerService | None = None
        self.queue_metrics: TimerService | None = None
        upstream: Upstream
        if self.clients.forwarder is not None:
            upstream = self.clients.forwarder
            self.queue_metrics = TimerService(_SHOW_SECONDS, self.clients.forwarder.show)
            self.queue_metrics.clock = reactor
        else:
            upstream = self.store = Store(
                reactor, config.store.retention, config.store.max_series, config.store.max_bytes
            )
            self.store_expiry = TimerService(_EXPIRE_SECONDS, self.store.expire)
            self.store_expiry.clock = reactor
        self.memcached = _memcached(config, reactor, wall)
        samples = config.samples
        self._authorize = Authorize(
            self.clients.authorizer,
            self._issuer(config),
            wall,
            samples.partition_label,
            samples.required_labels,
        )
        in_flight = InFlight(config.inflight_bytes)
        self.memory_return = MemoryReturn(reactor, in_flight, run)
        self.rate_limiter = RateLimiter(config.ratelimit.seconds, shared.table)
        memcache = seams.memcache or self.memcached
        self._upload = UploadEndpoint(
            self._verifier(config),
            self.rate_limiter,
            _upload_rules(config),
            upstream,
            reactor,
            wall,
            convert,
            partition_label=samples.partition_label,
            limit_bytes=samples.upload_bytes,
            in_flight=in_flight,
            replicas=(
                Replicas(memcache, config.ratelimit.seconds, wall, self.rate_limiter.mark)
                if memcache is not None and config.ratelimit.seconds
                else None
            ),
        )
        self._receive = ReceiveEndpoint(
            _receive_settings(config),
            token_check(
                config.authorization,
                reactor,
                self.clients.authorizer,
                self.memcached,
                shared.ask,
            ),
            upstream,
            convert,
            in_flight,
        )
        self.health = Health()
        self.health.shared |= self.clients.states()
        if self.memcached is not None:
            self.health.shared["memcached"] = self.memcached.describe
        self.tls = ReloadableServerContext(config.listen.tls)

    def reload(self, config: ServerConfig) -> None:
        """Work with another configuration, as far as it comes from files; cannot fail."""
        self._authorize.reload(self._issuer(config))
        self._upload.reload(self._verifier(config), _upload_rules(config))
        self._receive.reload(_receive_settings(config))
        self.clients.reload(config)
        self.tls.reload(config.listen.tls)

    def client_routes(self) -> list[Route]:
        """Return the routes that clients see, on `--listen`."""
        routes = [
            self._authorize.route(),
            self._upload.route(),
            *self.health.routes(),
            self._receive.route(),
        ]
        return [index_route(routes), *routes]

    def client_listener(self, endpoint: IStreamServerEndpoint) -> Listener:
        """Return the service that answers clients at an endpoint."""
        site = make_site(
            self.client_routes(),
            self._reactor,
            timeouts=self._config.timeouts,
            connections=self._config.connections,
        )
        site.observers.append(count_refused_upload)
        if self._shared.observer is not None:
            site.observers.append(self._shared.observer)
        settings = self._config.listen
        return Listener(
            self._reactor,
            endpoint,
            site,
            flag=settings.flag,
            address=settings.address,
            program=self._config.program,
            tls=self.tls if settings.tls else None,  # whether at all is settled at the start
        )

    def _keys(self, config: ServerConfig) -> Sequence[SigningKey]:
        return config.tokens.keys or (self._shared.key,)

    def _issuer(self, config: ServerConfig) -> TokenIssuer:
        return TokenIssuer(self._keys(config)[0], config.tokens.lifetime)

    def _verifier(self, config: ServerConfig) -> TokenVerifier:
        return TokenVerifier(self._keys(config))


def operator_routes(
    reactor: IDaemonReactor,
    health: Health,
    metrics: Collector,
    reload: Callable[[], Awaitable[None]],
    store: Store | None,
    fleet: Fleet,
    reader_seconds: float,
) -> list[Route]:
    """Return the routes that operators see, on `--listen-internal`.

    Args:
        reactor: tells the time, and calls later.
        health: of the server.
        metrics: those to show.
        reload: reads all files again; raises ValueError.
        store: what is shown at /federate; None: there is no such path.
        fleet: the record of clusters, which is shown at /.
        reader_seconds: how long the reader of /federate may take none of it.
    """
    routes = [
        metrics_route(metrics, fleet.measure),
        *debug_routes(reactor),
        *health.routes(for_operators=True),
        reload_route(reload),
        *([] if store is None else [federate_route(store, reactor, reader_seconds)]),
        *fleet.routes(),  # /api/v1/..., and what the page consists of
    ]
    return [index_route(routes, fleet.page()), *routes]


def _upload_rules(config: ServerConfig) -> UploadRules:
    samples = config.samples
    return UploadRules(samples.whitelist, samples.added_labels, samples.elided_labels)


def _receive_settings(config: ServerConfig) -> ReceiveSettings:
    samples = config.samples
    return ReceiveSettings(
        WriteRules(
            samples.whitelist,
            samples.elided_labels,
            samples.partition_label,
            keep_origins=not config.forward.url,
            most_name=samples.most_label_name,
            most_value=samples.most_label_value,
            added=samples.received_labels,
        ),
        samples.receive_bytes,
        tenant_key=samples.tenant_key,
        foreign_ids=samples.foreign_ids,
        keep_version=config.forward.keeps_version,
    )


def _memcached(config: ServerConfig, reactor: IDaemonReactor, wall: WallClock) -> Memcached | None:
    """Return what replicas share, if there is something."""
    settings = config.memcached
    if not settings.addresses:
        return None
    return Memcached(
        reactor,
        wall,
        settings.addresses,
        settings.lifetime,
        settings.lookup_seconds,
        config.timeouts.memcached,
    )
