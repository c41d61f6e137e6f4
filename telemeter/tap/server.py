"""telemeter-server: the service that its flags make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.ssl import CertificateOptions
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IAgent

from telemeter import __version__
from telemeter.auth.authorizer import AcceptEveryone, AuthorizationServer, RefusedError
from telemeter.auth.cache import CachingAsker, Expiring, MemoryStore, Store
from telemeter.auth.keys import SigningKey, generate_key
from telemeter.auth.memcached import Memcached
from telemeter.auth.oidc import OIDCAgent, TokenSource
from telemeter.auth.token import TokenIssuer, TokenVerifier
from telemeter.metrics.transcoder import KIND
from telemeter.metrics.upload import UploadRules
from telemeter.metrics.write import WriteRules
from telemeter.net.client import make_agent, make_pool
from telemeter.net.reloadable import ReloadablePolicy, ReloadableServerContext
from telemeter.net.url import shown
from telemeter.runner import thread_runner
from telemeter.tap.flags import warn_of_tracing
from telemeter.tap.listen import endpoint_maker
from telemeter.tap.oidc import Discovery
from telemeter.tap.reload import Reloader
from telemeter.tap.server_options import Files, Options
from telemeter.tap.service import Daemon, Listener, OnStop
from telemeter.upstream.batch import BatchLimits
from telemeter.upstream.forwarder import Forwarder
from telemeter.web.authorize import Authorize
from telemeter.web.debug import debug_routes
from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.ratelimit import RateLimiter
from telemeter.web.receive import Check, ReceiveEndpoint, ReceiveSettings
from telemeter.web.reload import reload_route
from telemeter.web.routing import make_site
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
INTERNAL_PATHS = ("/", "/metrics", "/debug/", "/healthz", "/healthz/ready", "/-/reload")


class Server:
    """The parts of a server, and how they take up what was read from files again."""

    def __init__(self, options: Options, reactor: Any, daemon: Daemon) -> None:
        self._options = options
        self._own_key = generate_key()
        self._clients = _Clients(options, reactor)
        self.tokens = self._clients.tokens
        self._run = thread_runner(reactor)
        OnStop(self._clients.close).setServiceParent(daemon)
        files, authorizer, upstream = (
            options.files,
            self._clients.authorizer,
            self._clients.forwarder,
        )
        self.authorize = Authorize(
            authorizer,
            self._issuer(files),
            reactor,
            options["partition-label"],
            dict(options["required-label"]),
        )
        self.upload = UploadEndpoint(
            self._verifier(files),
            RateLimiter(options["ratelimit"]),
            self._upload_rules(files),
            upstream,
            reactor,
            self._run,
            partition_label=options["partition-label"],
            limit_bytes=options["limit-bytes"],
        )
        self.receive = ReceiveEndpoint(
            self._receive_settings(files),
            _token_check(options, reactor, authorizer, daemon),
            upstream,
            self._run,
        )
        self.tls = ReloadableServerContext(files.tls)
        self.internal_tls = ReloadableServerContext(files.internal_tls)

    def reload(self) -> None:
        """Read all files again and use them; raises `UsageError`, and then nothing has changed."""
        files = self._options.read_files()
        self.authorize.use(self._issuer(files))
        self.upload.use(self._verifier(files), self._upload_rules(files))
        self.receive.use(self._receive_settings(files))
        self._clients.use(files)
        self._use_certificates(files.tls, files.internal_tls)

    def reload_certificates(self) -> None:
        """The same for the certificates that the listeners show."""
        self._use_certificates(*self._options.read_certificates())

    def _use_certificates(
        self, tls: CertificateOptions | None, internal_tls: CertificateOptions | None
    ) -> None:
        self.tls.use(tls)
        self.internal_tls.use(internal_tls)

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
                files.whitelist, frozenset(options["elide-label"]), options["partition-label"]
            ),
            options["limit-receive-bytes"],
            tenant_key=options["tenant-key"],
            foreign_ids=options["receive-foreign-ids"],
            keep_version=options["forward-protocol"] == "2.0",
        )


class _Clients:
    """What the server asks over HTTP: the upstream, the authorization server, the OIDC issuer.

    Each has connections of its own, because each has its own idea of whom to trust.
    """

    def __init__(self, options: Options, reactor: Any) -> None:
        self._reactor = reactor
        self._proxies = options.proxies
        self._pools: list[HTTPConnectionPool] = []
        files = options.files
        self._forward_policy = ReloadablePolicy(files.forward_policy)
        self._authorize_policy = ReloadablePolicy(files.authorize_policy)
        self._oidc_policy = ReloadablePolicy(files.oidc_policy)
        self.tokens: TokenSource | None = None
        if options["oidc-issuer"]:
            self.tokens = TokenSource(
                self._agent("oauth", self._oidc_policy),
                reactor,
                options["oidc-issuer"],
                options["client-id"],
                files.client_secret,
                options["oidc-audience"],
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

    def _agent(self, name: str, policy: ReloadablePolicy) -> IAgent:
        pool = make_pool(self._reactor)
        self._pools.append(pool)
        return make_agent(self._reactor, name, pool=pool, policy=policy, proxies=self._proxies)

    def _with_token(self, agent: IAgent) -> IAgent:
        return agent if self.tokens is None else OIDCAgent(agent, self.tokens)

    def use(self, files: Files) -> None:
        """Trust and show what was read again, from the next connection on."""
        self._forward_policy.use(files.forward_policy)
        self._authorize_policy.use(files.authorize_policy)
        self._oidc_policy.use(files.oidc_policy)
        if self.tokens is not None:
            self.tokens.use_secret(files.client_secret)

    def close(self) -> Deferred[Any]:
        """Close the connections that wait for another request."""
        return gatherResults([pool.closeCachedConnections() for pool in self._pools])


def makeService(options: Options, reactor: Any = None) -> IService:
    """The service of a server: clients of its own, and two listeners."""
    if reactor is None:
        from twisted.internet import reactor
    daemon = Daemon(options)
    server = Server(options, reactor, daemon)
    reloader = Reloader(
        reactor, server.reload, options.certificate_paths(), server.reload_certificates
    )
    reloader.setServiceParent(daemon)
    health = Health()
    if server.tokens is not None:
        Discovery(reactor, server.tokens, health, options.program).setServiceParent(daemon)
    external = make_site(
        [
            index_route(EXTERNAL_PATHS),
            *health.routes(),
            server.authorize.route(),
            server.upload.route(),
            server.receive.route(),
        ],
        reactor,
    )
    internal = make_site(
        [
            index_route(INTERNAL_PATHS),
            *health.routes(),
            metrics_route(),
            reload_route(reloader.reload),
            *debug_routes(reactor),
        ],
        reactor,
    )
    for site, flag, given, context in (
        (internal, "listen-internal", options.files.internal_tls, server.internal_tls),
        (external, "listen", options.files.tls, server.tls),
    ):
        Listener(
            reactor,
            endpoint_maker(options[flag])(reactor),
            site,
            TLSMemoryBIOFactory(context, False, site, reactor) if given else site,
            flag=flag,
            address=options[flag],
            program=options.program,
        ).setServiceParent(daemon)
    OnStop(health.stop).setServiceParent(daemon)
    _announce(options)
    return daemon


def _token_check(
    options: Options,
    reactor: Any,
    authorizer: AcceptEveryone | AuthorizationServer,
    daemon: Daemon,
) -> Check:
    """What checks the tokens of remote-write senders."""
    if isinstance(authorizer, AcceptEveryone):
        return lambda question: succeed(None)
    size = options["authorize-cache-size"]
    store: Store = MemoryStore(reactor, options["authorize-cache-expire"], size)
    if options["memcached"]:
        memcached = Memcached(
            reactor,
            options["memcached"],
            options["memcached-expire"],
            options["memcached-interval"],
        )
        memcached.setServiceParent(daemon)
        store = memcached
    refused: Expiring[RefusedError] = Expiring(reactor, options["authorize-refused-expire"], size)
    return CachingAsker(authorizer, store, refused).check


def _announce(options: Options) -> None:
    """Say what is started, and warn of what is missing for production."""
    log.info(
        "starting telemeter-server",
        version=__version__,
        forward_url=shown(options["forward-url"]),
        authorize=shown(options["authorize"]),
        transcoder=KIND,
        whitelist_rules=len(options.files.whitelist.selectors),
    )
    warn_of_tracing(options)
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
        log.warn("no --forward-url: uploads will be answered with 502")
