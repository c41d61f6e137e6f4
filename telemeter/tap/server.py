"""telemeter-server: its flags, and the service that they make."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.defer import succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.usage import UsageError

from telemeter import __version__
from telemeter.auth.authorizer import AcceptEveryone, AuthorizationServer, RefusedError
from telemeter.auth.cache import CachingAsker, Expiring, MemoryStore, Store
from telemeter.auth.keys import SigningKey, generate_key, load_key
from telemeter.auth.memcached import Memcached
from telemeter.auth.token import TokenIssuer, TokenVerifier
from telemeter.metrics.upload import UploadRules
from telemeter.metrics.whitelist import Whitelist
from telemeter.metrics.write import WriteRules
from telemeter.net.client import make_agent, make_pool
from telemeter.net.tls import server_options
from telemeter.net.url import check_http_url, shown
from telemeter.tap.flags import (
    LOGGING,
    Flag,
    Flags,
    choice,
    duration,
    integer,
    label_list,
    label_name,
    memcached_list,
    read_file,
    read_selectors,
    selector,
    text,
    tracing_flags,
    warn_of_tracing,
)
from telemeter.tap.listen import endpoint_maker, listen_address
from telemeter.tap.service import Daemon, Listener, OnStop
from telemeter.upstream.forwarder import Forwarder
from telemeter.web.authorize import Authorize
from telemeter.web.debug import debug_routes
from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.ratelimit import RateLimiter
from telemeter.web.receive import Check, ReceiveEndpoint, ReceiveSettings
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
INTERNAL_PATHS = ("/", "/metrics", "/debug/", "/healthz", "/healthz/ready")


class Options(Flags):
    """The flags of telemeter-server."""

    program = "telemeter-server"
    synopsis = "[flags]"
    longdesc = (
        "Takes metrics pushed by telemeter-client or written by any Prometheus, checks whose they "
        "are, limits, filters and labels them, and forwards them by remote write."
    )
    flags: ClassVar = (
        Flag(
            "listen",
            listen_address,
            "0.0.0.0:9003",
            "HOST:PORT to listen on for clients, or a Twisted endpoint description.",
        ),
        Flag(
            "listen-internal",
            listen_address,
            "localhost:9004",
            "HOST:PORT to listen on for health, metrics and debugging.",
        ),
        Flag("tls-key", text, "", "File with the private key (PEM) for --listen."),
        Flag("tls-crt", text, "", "File with the certificate and its chain (PEM) for --listen."),
        Flag("internal-tls-key", text, "", "As --tls-key, for --listen-internal."),
        Flag("internal-tls-crt", text, "", "As --tls-crt, for --listen-internal."),
        Flag(
            "label",
            label_list,
            [],
            "NAME=VALUE labels to add to every outgoing series, or to overwrite there.",
            repeated=True,
        ),
        Flag(
            "partition-label",
            label_name,
            "_id",
            "The label that holds the cluster's identifier; every sample must carry it.",
        ),
        Flag(
            "shared-key",
            text,
            "",
            "File with the private key that signs the agents' tokens: RSA, or EC on P-256, P-384 "
            "or P-521; PEM or DER. Servers that share it accept each other's tokens.",
            shown="a fresh key at every start",
        ),
        Flag(
            "token-expire-seconds",
            integer(1),
            24 * 60 * 60,
            "For how many seconds an agent's token holds.",
        ),
        Flag(
            "authorize",
            check_http_url,
            "",
            "URL of the authorization server. Without it every token is accepted.",
        ),
        Flag(
            "authorize-cache-expire",
            duration,
            300.0,
            "For how long a yes of the authorization server to a remote-write token is remembered "
            "in this process; 0 for not at all. Not used with --memcached.",
            shown="5m",
        ),
        Flag(
            "authorize-cache-size",
            integer(1),
            100_000,
            "How many of its answers are remembered, yeses and noes each.",
        ),
        Flag(
            "authorize-refused-expire",
            duration,
            10.0,
            "For how long a no to a remote-write token is remembered; 0 for not at all.",
            shown="10s",
        ),
        Flag(
            "memcached",
            memcached_list,
            [],
            "HOST:PORT of memcached servers to remember yeses in, for servers with replicas.",
            repeated=True,
        ),
        Flag(
            "memcached-expire",
            integer(0, 2**31 - 1),
            24 * 60 * 60,
            "For how many seconds memcached remembers a yes; 0 for as long as it can.",
        ),
        Flag(
            "memcached-interval",
            integer(0, 2**31 - 1),
            10,
            "Seconds between look-ups of the addresses of --memcached; 0 for only once.",
        ),
        Flag(
            "tenant-key",
            text,
            "",
            "The field of a remote-write token that names the tenant, for the log.",
        ),
        Flag(
            "tenant-id",
            text,
            "FB870BF3-9F3A-44FF-9BF7-D7A047A52F43",
            "The tenant to forward as (header THANOS-TENANT).",
        ),
        Flag(
            "ratelimit",
            duration,
            270.0,
            "The shortest time between two uploads of a cluster; 0 for no limit.",
            shown="4m30s",
        ),
        Flag(
            "forward-url", check_http_url, "", "Remote-write URL that everything is forwarded to."
        ),
        Flag(
            "required-label",
            label_list,
            [],
            "NAME=VALUE labels that every incoming sample must carry; agents learn them from "
            "/authorize.",
            repeated=True,
        ),
        Flag(
            "whitelist",
            selector,
            [],
            'A PromQL selector such as {__name__="up"}: only series that at least one selects are '
            "forwarded. Without any, all are.",
            repeated=True,
        ),
        Flag(
            "whitelist-file",
            text,
            "",
            "File with more of them, one a line; blank lines and lines starting with # are "
            "ignored.",
        ),
        Flag(
            "elide-label",
            label_name,
            [],
            "A label to remove from every series.",
            repeated=True,
        ),
        Flag(
            "limit-bytes",
            integer(1),
            500 * 1024,
            "The size in bytes, decompressed, that an upload must stay under.",
        ),
        Flag(
            "limit-receive-bytes",
            integer(1),
            128 * 1024,
            "The size in bytes, compressed, that a remote-write request must stay under.",
        ),
        Flag(
            "receive-foreign-ids",
            None,
            False,
            "Let a remote-write sender write for other clusters than the one of its token, as a "
            "gateway does.",
        ),
        Flag(
            "forward-protocol",
            choice("1.0", "2.0"),
            "1.0",
            "The version in which remote write 2.0 is forwarded: 1.0, or 2.0 as it came.",
        ),
        *LOGGING,
        *tracing_flags("telemeter-server"),
    )

    def check(self) -> None:
        """Read every file, so that what is wrong with one is known before anything listens."""
        self.key = self._read_key()
        self.tls = self._read_pair("tls-crt", "tls-key")
        self.internal_tls = self._read_pair("internal-tls-crt", "internal-tls-key")
        self.whitelist = Whitelist(
            [
                *self["whitelist"],
                *(read_selectors(self, "whitelist-file") if self["whitelist-file"] else ()),
            ]
        )

    def _read_key(self) -> SigningKey | None:
        if not self["shared-key"]:
            return None
        try:
            return load_key(read_file(self, "shared-key"))
        except ValueError as error:
            raise UsageError(f"--shared-key {self['shared-key']!r}: {error}") from None

    def _read_pair(self, certificate: str, key: str) -> Any:
        self.require_both(certificate, key)
        if not self[certificate]:
            return None
        try:
            return server_options(read_file(self, certificate), read_file(self, key))
        except ValueError as error:
            raise UsageError(f"--{certificate} {self[certificate]!r}: {error}") from None


def makeService(options: Options, reactor: Any = None) -> IService:
    """The service of a server: clients of its own, and two listeners."""
    if reactor is None:
        from twisted.internet import reactor
    daemon = Daemon(options)
    pool = make_pool(reactor)
    OnStop(pool.closeCachedConnections).setServiceParent(daemon)
    health = Health()
    key = options.key or generate_key()
    authorizer = _authorizer(options, reactor, pool)
    upstream = _forwarder(options, reactor, pool)
    run = _thread_runner(reactor)
    authorize = Authorize(
        authorizer,
        TokenIssuer(key, options["token-expire-seconds"]),
        reactor,
        options["partition-label"],
        dict(options["required-label"]),
    )
    upload = UploadEndpoint(
        TokenVerifier([key]),
        RateLimiter(options["ratelimit"]),
        UploadRules(options.whitelist, dict(options["label"]), frozenset(options["elide-label"])),
        upstream,
        reactor,
        run,
        partition_label=options["partition-label"],
        limit_bytes=options["limit-bytes"],
    )
    receive = ReceiveEndpoint(
        ReceiveSettings(
            WriteRules(
                options.whitelist,
                frozenset(options["elide-label"]),
                options["partition-label"],
            ),
            options["limit-receive-bytes"],
            tenant_key=options["tenant-key"],
            foreign_ids=options["receive-foreign-ids"],
            keep_version=options["forward-protocol"] == "2.0",
        ),
        _token_check(options, reactor, authorizer, daemon),
        upstream,
        run,
    )
    external = make_site(
        [
            index_route(EXTERNAL_PATHS),
            *health.routes(),
            authorize.route(),
            upload.route(),
            receive.route(),
        ],
        reactor,
    )
    internal = make_site(
        [
            index_route(INTERNAL_PATHS),
            *health.routes(),
            metrics_route(),
            *debug_routes(reactor),
        ],
        reactor,
    )
    for site, flag, tls in (
        (internal, "listen-internal", options.internal_tls),
        (external, "listen", options.tls),
    ):
        Listener(
            reactor,
            endpoint_maker(options[flag])(reactor),
            site,
            TLSMemoryBIOFactory(tls, False, site, reactor) if tls else site,
            flag=flag,
            address=options[flag],
            program=options.program,
        ).setServiceParent(daemon)
    OnStop(health.stop).setServiceParent(daemon)
    _announce(options)
    return daemon


def _authorizer(options: Options, reactor: Any, pool: Any) -> AcceptEveryone | AuthorizationServer:
    if not options["authorize"]:
        return AcceptEveryone()
    return AuthorizationServer(
        make_agent(reactor, "authorize", pool=pool), reactor, options["authorize"]
    )


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


def _forwarder(options: Options, reactor: Any, pool: Any) -> Forwarder | None:
    if not options["forward-url"]:
        return None
    agent = make_agent(reactor, "forward", pool=pool)
    return Forwarder(agent, reactor, options["forward-url"], options["tenant-id"])


def _thread_runner(reactor: Any) -> Any:
    def run(function: Any, *arguments: Any) -> Awaitable[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)

    return run


def _announce(options: Options) -> None:
    """Say what is started, and warn of what is missing for production."""
    log.info(
        "starting telemeter-server",
        version=__version__,
        forward_url=shown(options["forward-url"]),
        authorize=shown(options["authorize"]),
        whitelist_rules=options.whitelist.size,
    )
    warn_of_tracing(options)
    if options.key is None:
        log.warn(
            "no --shared-key: using a fresh one, so agents must authorize again after a restart, "
            "and no other server accepts their tokens"
        )
    if not options["authorize"]:
        log.warn("no --authorize: every token is accepted")
    if not options.whitelist:
        log.warn("no --whitelist or --whitelist-file: every series is forwarded")
    if not options["forward-url"]:
        log.warn("no --forward-url: uploads will be answered with 502")
