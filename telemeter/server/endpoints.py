"""The endpoints for clients, in one process: authorize, upload, receive, and their health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.application.internet import TimerService
from twisted.application.service import IService
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
from telemeter.loop.services import OnStop
from telemeter.loop.threads import Runner, one_at_a_time, thread_runner
from telemeter.net.reloadable import ReloadableServerContext
from telemeter.net.upstream import Upstream
from telemeter.samples.errors import BadInputError
from telemeter.server.clients import AgentMaker, Clients
from telemeter.server.listeners import listener
from telemeter.server.token_check import token_check
from telemeter.store.store import Store
from telemeter.web.authorize import Authorize
from telemeter.web.fleet_observer import AttemptObserver
from telemeter.web.health import Health, index_route
from telemeter.web.receive import ReceiveEndpoint, ReceiveSettings
from telemeter.web.site.routing import Route, make_site
from telemeter.web.upload import UploadEndpoint

#: The least time between two looks for clusters of the store that have gone silent, in seconds.
_EXPIRE_SECONDS: Final = 10.0


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
        limiter: says whether a cluster may upload now.
    """

    def __init__(
        self,
        config: ServerConfig,
        reactor: Any,
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
        self._run = run
        convert = one_at_a_time(run, reactor)
        self.clients = Clients(config, reactor, run, seams.make_agent)
        self.store: Store | None = None
        upstream: Upstream
        if self.clients.forwarder is not None:
            upstream = self.clients.forwarder
        else:
            upstream = self.store = Store(
                reactor, config.store.retention, config.store.max_series, config.store.max_bytes
            )
        self._memcached = _memcached(config, reactor, wall)
        samples = config.samples
        self._authorize = Authorize(
            self.clients.authorizer,
            self._issuer(config),
            wall,
            samples.partition_label,
            samples.required_labels,
        )
        self._in_flight = InFlight(config.inflight_bytes)
        self.limiter = RateLimiter(config.ratelimit.seconds, shared.table)
        memcache = seams.memcache or self._memcached
        self._upload = UploadEndpoint(
            self._verifier(config),
            self.limiter,
            _upload_rules(config),
            upstream,
            reactor,
            wall,
            convert,
            partition_label=samples.partition_label,
            limit_bytes=samples.upload_bytes,
            in_flight=self._in_flight,
            replicas=(
                Replicas(memcache, config.ratelimit.seconds, wall, self.limiter.mark)
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
                self._memcached,
                shared.ask,
            ),
            upstream,
            convert,
            self._in_flight,
        )
        self.health = Health()
        self.health.shared |= self.clients.states()
        if self._memcached is not None:
            self.health.shared["memcached"] = self._memcached.describe
        self.tls = ReloadableServerContext(config.listen.tls)

    def reload(self, config: ServerConfig) -> None:
        """Work with another configuration, as far as it comes from files; cannot fail."""
        self._authorize.use(self._issuer(config))
        self._upload.use(self._verifier(config), _upload_rules(config))
        self._receive.use(_receive_settings(config))
        self.clients.reload(config)
        self.tls.use(config.listen.tls)

    def routes(self) -> list[Route]:
        """Return the routes that clients see."""
        routes = [
            self._authorize.route(),
            self._upload.route(),
            *self.health.routes(),
            self._receive.route(),
        ]
        return [index_route(routes), *routes]

    def helpers(self) -> list[IService]:
        """Return the services that the endpoints need, in start order."""
        services: list[IService] = [
            OnStop(self.clients.close),
            MemoryReturn(self._reactor, self._in_flight, self._run),
        ]
        if self.store is not None:
            timer = TimerService(_EXPIRE_SECONDS, self.store.expire)
            timer.clock = self._reactor
            services.append(timer)
        if self._memcached is not None:
            services.append(self._memcached)
        return services

    def listening(
        self, endpoint: IStreamServerEndpoint, *, needs_issuer: bool = True
    ) -> list[IService]:
        """Return the services that answer clients, in start order.

        Args:
            endpoint: where to listen.
            needs_issuer: whether the process ends if the OIDC issuer is not there at the start. A
                worker may take the place of another one long after that.
        """
        site = make_site(
            self.routes(),
            self._reactor,
            timeouts=self._config.timeouts,
            connections=self._config.connections,
        )
        if self._shared.observer is not None:
            site.observers.append(self._shared.observer)
        discovery = self.clients.discovery(self.health, vital=needs_issuer)
        return [
            *([] if discovery is None else [discovery]),
            listener(self._config, self._config.listen, self._reactor, endpoint, site, self.tls),
            OnStop(self.health.stop),
        ]

    def _keys(self, config: ServerConfig) -> Sequence[SigningKey]:
        return config.tokens.keys or (self._shared.key,)

    def _issuer(self, config: ServerConfig) -> TokenIssuer:
        return TokenIssuer(self._keys(config)[0], config.tokens.lifetime)

    def _verifier(self, config: ServerConfig) -> TokenVerifier:
        return TokenVerifier(self._keys(config))


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


def _memcached(config: ServerConfig, reactor: Any, wall: WallClock) -> Memcached | None:
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
