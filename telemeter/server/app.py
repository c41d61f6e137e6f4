"""telemeter-server: the service that its flags make."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector
from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IAgent

from telemeter import __version__
from telemeter.auth.authorization_server import AcceptEveryone, AuthorizationServer, RefusedError
from telemeter.auth.cache import (
    Ask,
    Asker,
    CachingAsker,
    Expiring,
    MemoryStore,
    RemoteAsker,
    Store,
)
from telemeter.auth.keys import SigningKey, generate_key
from telemeter.auth.memcached import Memcached
from telemeter.auth.oidc import OIDCAgent, TokenSource
from telemeter.auth.token import TokenIssuer, TokenVerifier
from telemeter.config.files import recording
from telemeter.config.flags import warn_of_empty, warn_of_tracing
from telemeter.config.listen import endpoint_maker
from telemeter.config.reload import Reload, Reloader, Told
from telemeter.config.server import Files, Options
from telemeter.convert.engine import KIND, SWITCH
from telemeter.convert.upload import UploadRules
from telemeter.convert.write import WriteRules
from telemeter.limits.ratelimit import RateLimiter, Table, shared_memory
from telemeter.limits.replicas import Replicas
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock, elapsed_reactor
from telemeter.loop.services import OnStop, OrderedServices
from telemeter.loop.threads import thread_runner
from telemeter.net.client import make_agent, make_pool
from telemeter.net.reloadable import ReloadablePolicy, ReloadableServerContext
from telemeter.net.upstream import Upstream
from telemeter.net.url import shown
from telemeter.observe.compiled import warn_of_python
from telemeter.observe.registry import WithWorkers
from telemeter.server.discovery import Discovery
from telemeter.server.fleet_pages import ATTEMPTS, Fleet
from telemeter.server.workers.control import Setup
from telemeter.server.workers.supervisor import Workers
from telemeter.store.cluster_series import StoreSeries
from telemeter.store.store import Store as SeriesStore
from telemeter.tap.daemon import Daemon
from telemeter.upstream.batch import BatchLimits
from telemeter.upstream.forwarder import Forwarder
from telemeter.web.attempts import AttemptObserver
from telemeter.web.authorize import Authorize
from telemeter.web.debug import debug_routes
from telemeter.web.federate import federate_route
from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.receive import Check, ReceiveEndpoint, ReceiveSettings
from telemeter.web.reload import reload_route
from telemeter.web.site.listener import Listener, Listening
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from telemeter.web.upload import UploadEndpoint

log = Logger()

EXTERNAL_PATHS = (
    "/",
    "/authorize",
    "/upload",
    "/healthz",
    "/healthz/ready",
    "/metrics/v1/receive",
)
#: The most yeses that a worker remembers besides its parent.
_REMOTE_YESES = 10_000
INTERNAL_PATHS = ("/", "/metrics", "/debug/", "/healthz", "/healthz/ready", "/-/reload")
#: The least time between two looks for clusters of the store that have gone silent.
_EXPIRE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What processes that answer clients for the same server have in common.

    Attributes:
        key: signs and verifies tokens when no file has a key.
        table: who has uploaded when; None: whatever the limit is, in a table of its own.
        ask: asks the process that remembers what the authorization server said of remote-write
            tokens; None: this one does.
        observer: observes what clients are answered; None: nobody does.
    """

    key: SigningKey
    table: Table | None = None
    ask: Ask | None = None
    observer: AttemptObserver | None = None


class External:
    """What answers clients, in one process.

    Attributes:
        health: of this process.
        tls: what its listener shows.
        store: keeps what is not forwarded; None: everything is.
    """

    def __init__(
        self,
        options: Options,
        reactor: Any,
        wall: WallClock,
        daemon: OrderedServices,
        shared: Shared,
    ) -> None:
        """Make it of services that become parts of `daemon`."""
        self._options = options
        self._reactor = reactor
        self._daemon = daemon
        self._own_key = shared.key
        self._observer = shared.observer
        self._clients = Clients(options, reactor, daemon)
        files, authorizer = options.files, self._clients.authorizer
        self.store: SeriesStore | None = None
        upstream: Upstream
        if self._clients.forwarder is not None:
            upstream = self._clients.forwarder
        else:
            upstream = self.store = _make_store(options, reactor, daemon)
        run = thread_runner(reactor)
        memcached = _memcached(options, reactor, wall, daemon)
        self._authorize = Authorize(
            authorizer,
            self._issuer(files),
            wall,
            options["partition-label"],
            dict(options["required-label"]),
        )
        limiter = RateLimiter(options["ratelimit"], shared.table)
        self._upload = UploadEndpoint(
            self._verifier(files),
            limiter,
            self._upload_rules(files),
            upstream,
            reactor,
            wall,
            run,
            partition_label=options["partition-label"],
            limit_bytes=options["limit-bytes"],
            replicas=(
                Replicas(memcached, options["ratelimit"], wall, limiter.mark)
                if memcached is not None and options["ratelimit"]
                else None
            ),
        )
        self._receive = ReceiveEndpoint(
            self._receive_settings(files),
            _token_check(options, reactor, authorizer, memcached, shared.ask),
            upstream,
            run,
        )
        self.health = Health()
        self.tls = ReloadableServerContext(files.tls)

    def use(self, files: Files) -> None:
        """Work with what was read again."""
        self._authorize.use(self._issuer(files))
        self._upload.use(self._verifier(files), self._upload_rules(files))
        self._receive.use(self._receive_settings(files))
        self._clients.use(files)
        self.tls.use(files.tls)

    def listen_at(self, endpoint: IStreamServerEndpoint, *, needs_issuer: bool = True) -> None:
        """Answer there, while the daemon runs.

        Args:
            endpoint: where.
            needs_issuer: whether the process ends if the OIDC issuer is not there at the start. A
                worker may take the place of another long after that.
        """
        self._clients.discover(self.health, vital=needs_issuer)
        routes = [
            index_route(EXTERNAL_PATHS),
            *self.health.routes(),
            self._authorize.route(),
            self._upload.route(),
            self._receive.route(),
        ]
        site = make_site(routes, self._reactor, idle_seconds=self._options["idle-timeout"])
        if self._observer is not None:
            site.observers.append(self._observer)
        tls = self.tls if self._options.files.tls else None
        _listener(self._options, self._reactor, "listen", endpoint, site, tls).setServiceParent(
            self._daemon
        )
        OnStop(self.health.stop).setServiceParent(self._daemon)

    def _keys(self, files: Files) -> Sequence[SigningKey]:
        return files.keys or (self._own_key,)

    def _issuer(self, files: Files) -> TokenIssuer:
        return TokenIssuer(self._keys(files)[0], self._options["token-expire-seconds"])

    def _verifier(self, files: Files) -> TokenVerifier:
        return TokenVerifier(self._keys(files))

    def _upload_rules(self, files: Files) -> UploadRules:
        options = self._options
        return UploadRules(
            files.whitelist, dict(options["label"]), frozenset(options["elide-label"])
        )

    def _receive_settings(self, files: Files) -> ReceiveSettings:
        options = self._options
        return ReceiveSettings(
            WriteRules(
                files.whitelist,
                frozenset(options["elide-label"]),
                options["partition-label"],
                keep_origins=not options["forward-url"],
            ),
            options["limit-receive-bytes"],
            tenant_key=options["tenant-key"],
            foreign_ids=options["receive-foreign-ids"],
            keep_version=options["forward-protocol"] == "2.0" and bool(options["forward-url"]),
        )


def _make_store(options: Options, reactor: Any, daemon: OrderedServices) -> SeriesStore:
    """What keeps the samples that are not forwarded."""
    store = SeriesStore(reactor, options["store-retention"], options["store-max-series"])
    timer = TimerService(_EXPIRE_SECONDS, store.expire)
    timer.clock = reactor
    timer.setServiceParent(daemon)
    return store


class Clients:
    """What the server asks over HTTP: the upstream, the authorization server, the OIDC issuer.

    Each has connections of its own, because each has its own idea of whom to trust.
    """

    def __init__(self, options: Options, reactor: Any, daemon: OrderedServices) -> None:
        self._options = options
        self._reactor = reactor
        self._daemon = daemon
        self._proxies = options.proxies
        self._pools: list[HTTPConnectionPool] = []
        files = options.files
        self._forward_policy = ReloadablePolicy(files.forward_policy)
        self._authorize_policy = ReloadablePolicy(files.authorize_policy)
        self._oidc_policy = ReloadablePolicy(files.oidc_policy)
        self._tokens: TokenSource | None = None
        if options["oidc-issuer"]:
            self._tokens = TokenSource(
                self._agent("oauth", self._oidc_policy),
                reactor,
                options["oidc-issuer"],
                options["client-id"],
                files.client_secret,
                options["oidc-audience"],
                options["oidc-scope"],
            )
        self.authorizer: AcceptEveryone | AuthorizationServer = AcceptEveryone()
        if options["authorize"]:
            agent = self._with_token(self._agent("authorize", self._authorize_policy))
            self.authorizer = AuthorizationServer(agent, reactor, options["authorize"])
        self.forwarder: Forwarder | None = None
        if options["forward-url"]:
            agent = self._with_token(self._agent("forward", self._forward_policy))
            self.forwarder = Forwarder(
                agent,
                reactor,
                options["forward-url"],
                options["tenant-id"],
                BatchLimits(options["forward-batch-requests"], options["forward-batch-bytes"]),
                thread_runner(reactor),
            )
        OnStop(self._close).setServiceParent(daemon)

    def _agent(self, name: str, policy: ReloadablePolicy) -> IAgent:
        pool = make_pool(self._reactor)
        self._pools.append(pool)
        return make_agent(
            self._reactor,
            name,
            self._options.program,
            pool=pool,
            policy=policy,
            proxies=self._proxies,
        )

    def _with_token(self, agent: IAgent) -> IAgent:
        return agent if self._tokens is None else OIDCAgent(agent, self._tokens)

    def use(self, files: Files) -> None:
        """Trust and show what was read again, from the next connection on."""
        self._forward_policy.use(files.forward_policy)
        self._authorize_policy.use(files.authorize_policy)
        self._oidc_policy.use(files.oidc_policy)
        if self._tokens is not None:
            self._tokens.use_secret(files.client_secret)

    def discover(self, health: Health, *, vital: bool = True) -> None:
        """Find the OIDC issuer, if there is one, while the daemon runs; see `Discovery`."""
        if self._tokens is not None:
            program = self._options.program
            discovery = Discovery(self._reactor, self._tokens, health, program, vital=vital)
            discovery.setServiceParent(self._daemon)

    def _close(self) -> Deferred[Any]:
        """Close the connections that wait for another request."""
        return gatherResults([pool.closeCachedConnections() for pool in self._pools])


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """The service of a server: one process, or the parent of several."""
    if reactor is None:
        reactor = elapsed_reactor()
    daemon = Daemon(options, reactor)
    if options["workers"] == 1:
        _serve(options, reactor, wall, daemon)
    else:
        _supervise(options, reactor, wall, daemon)
    _announce(options)
    return daemon


def _serve(options: Options, reactor: Any, wall: WallClock, daemon: Daemon) -> None:
    """Answer on both listeners, in this process."""
    fleet = Fleet(options, reactor, wall)
    shared = Shared(generate_key(), observer=fleet.observer)
    external = External(options, reactor, wall, daemon, shared)
    internal_tls = ReloadableServerContext(options.files.internal_tls)

    def reload() -> Told:
        files = options.read_files()
        external.use(files)
        fleet.use(files.whitelist)
        internal_tls.use(files.internal_tls)
        return {"whitelist_rules": len(files.whitelist.selectors)}

    def reload_certificates() -> None:
        tls, internal = options.read_certificates()
        external.tls.use(tls)
        internal_tls.use(internal)

    reloader = _reloader(options, reactor, wall, reload, reload_certificates)
    reloader.setServiceParent(daemon)
    daemon.signals.call(signal.SIGHUP, reloader.reload_quietly)
    store = external.store
    more = []
    if store is not None:
        more.append(federate_route(store, reactor))
        fleet.show(StoreSeries(store))
    _listen_inside(
        options, reactor, daemon, external.health, reloader, internal_tls, fleet, more=more
    )
    external.listen_at(endpoint_maker(options["listen"])(reactor))


def _supervise(options: Options, reactor: Any, wall: WallClock, daemon: Daemon) -> None:
    """Answer on the internal listener, and have workers answer on the external one."""
    clients = Clients(options, reactor, daemon)
    table = shared_memory("telemeter-ratelimit") if options["ratelimit"] > 0 else None
    workers = Workers(
        reactor,
        Listening(
            endpoint_maker(options["listen"])(reactor),
            Factory(),
            flag="listen",
            address=options["listen"],
            program=options.program,
        ),
        Setup(
            options["workers"],
            options.arguments,
            options.files.contents,
            generate_key().encode(),
            b"" if table is None else Table(descriptor=table).key,
        ),
        table,
        _asker(options, reactor, clients.authorizer),
        daemon.pass_on,
    )
    fleet = Fleet(options, reactor, wall)
    workers.reports[ATTEMPTS] = fleet.take
    daemon.signals.at_once.append(workers.end_at_once)
    OnStop(workers.remove_folder).setServiceParent(daemon)
    health = Health(lambda: workers.ready)
    internal_tls = ReloadableServerContext(options.files.internal_tls)

    async def reload() -> Told:
        files = options.read_files()
        await workers.use(files.contents)
        clients.use(files)
        fleet.use(files.whitelist)
        internal_tls.use(files.internal_tls)
        return {"whitelist_rules": len(files.whitelist.selectors)}

    async def reload_certificates() -> None:
        with recording() as contents:
            _, internal = options.read_certificates()
        await workers.use(contents, only_certificates=True)
        internal_tls.use(internal)

    reloader = _reloader(options, reactor, wall, reload, reload_certificates)
    reloader.setServiceParent(daemon)
    daemon.signals.call(signal.SIGHUP, reloader.reload_quietly)
    clients.discover(health)
    metrics = WithWorkers(lambda: workers.folder, workers.pids)
    _listen_inside(options, reactor, daemon, health, reloader, internal_tls, fleet, metrics)
    workers.setServiceParent(daemon)
    OnStop(health.stop).setServiceParent(daemon)


def _reloader(
    options: Options,
    reactor: Any,
    wall: WallClock,
    reload: Reload,
    reload_certificates: Reload,
) -> Reloader:
    """What reloads all files when it is told to, and certificates when they change."""
    return Reloader(
        reactor,
        wall,
        reload,
        options.certificate_paths(),
        reload_certificates,
        options.certificates_seen,
    )


def _listen_inside(
    options: Options,
    reactor: Any,
    daemon: Daemon,
    health: Health,
    reloader: Reloader,
    tls: ReloadableServerContext,
    fleet: Fleet,
    metrics: Collector = REGISTRY,
    more: Sequence[Route] = (),
) -> None:
    """Answer on the internal listener, while the daemon runs."""
    routes = [
        *fleet.routes((*INTERNAL_PATHS, *(route.path for route in more))),
        *health.routes(),
        metrics_route(metrics),
        reload_route(reloader.reload),
        *debug_routes(reactor),
        *more,
    ]
    endpoint = endpoint_maker(options["listen-internal"])(reactor)
    shown = tls if options.files.internal_tls else None
    site = make_site(routes, reactor, idle_seconds=options["idle-timeout"])
    listener = _listener(options, reactor, "listen-internal", endpoint, site, shown)
    listener.setServiceParent(daemon)
    OnStop(fleet.stop).setServiceParent(daemon)


def _listener(
    options: Options,
    reactor: Any,
    flag: str,
    endpoint: IStreamServerEndpoint,
    site: Site,
    tls: ReloadableServerContext | None,
) -> Listener:
    return Listener(
        reactor,
        endpoint,
        site,
        TLSMemoryBIOFactory(tls, False, site, reactor) if tls else site,
        flag=flag,
        address=options[flag],
        program=options.program,
    )


def _memcached(
    options: Options, reactor: Any, wall: WallClock, daemon: OrderedServices
) -> Memcached | None:
    """What replicas share, if there is something."""
    if not options["memcached"]:
        return None
    memcached = Memcached(
        reactor,
        wall,
        options["memcached"],
        options["memcached-expire"],
        options["memcached-interval"],
    )
    memcached.setServiceParent(daemon)
    return memcached


def _token_check(
    options: Options,
    reactor: Any,
    authorizer: AcceptEveryone | AuthorizationServer,
    memcached: Memcached | None,
    ask: Ask | None,
) -> Check:
    """What checks the tokens of remote-write senders."""
    if isinstance(authorizer, AcceptEveryone):
        return lambda question: succeed(None)
    if memcached is not None:
        return _caching(options, reactor, authorizer, memcached).check
    if ask is not None:
        size = min(options["authorize-cache-size"], _REMOTE_YESES)
        return RemoteAsker(ask, reactor, size).check
    return _caching(options, reactor, authorizer, _memory_store(options, reactor)).check


def _asker(
    options: Options, reactor: Any, authorizer: AcceptEveryone | AuthorizationServer
) -> Ask | None:
    """What workers ask about the tokens of remote-write senders."""
    if isinstance(authorizer, AcceptEveryone):
        return None
    store = _memory_store(options, reactor)
    asker = _caching(options, reactor, authorizer, store)

    async def ask(question: bytes) -> float:
        await asker.check(question)
        return store.remaining(question)

    return ask


def _memory_store(options: Options, reactor: Any) -> MemoryStore:
    return MemoryStore(reactor, options["authorize-cache-expire"], options["authorize-cache-size"])


def _caching(options: Options, reactor: Any, asker: Asker, store: Store) -> CachingAsker:
    refused: Expiring[RefusedError] = Expiring(
        reactor, options["authorize-refused-expire"], options["authorize-cache-size"]
    )
    return CachingAsker(asker, store, refused)


def _announce(options: Options) -> None:
    """Say what is started, and warn of what is missing for production."""
    log.info(
        "starting telemeter-server",
        version=__version__,
        forward_url=shown(options["forward-url"]),
        authorize=shown(options["authorize"]),
        workers=options["workers"],
        transcoder=KIND,
        whitelist_rules=len(options.files.whitelist.selectors),
    )
    warn_of_python(KIND, "uploads and remote write take 12 to 43 times the processor time", SWITCH)
    warn_of_tracing(options)
    warn_of_empty(options)
    if not options.files.keys:
        log.warn(
            "no --shared-key: using a fresh one, so agents must authorize again after a restart, "
            "and no other server accepts their tokens"
        )
    if options["oidc-issuer"].startswith("http://"):
        log.warn("--oidc-issuer is not https: the client secret travels in the clear")
    if not options["authorize"]:
        log.warn("no --authorize: every token is accepted")
    if not options.files.whitelist:
        log.warn("no --whitelist or --whitelist-file: every series is forwarded")
    if not options["forward-url"]:
        log.info(
            "no --forward-url: the latest samples are kept in memory, at /federate of "
            "--listen-internal",
            retention=options["store-retention"],
            max_series=options["store-max-series"],
        )
