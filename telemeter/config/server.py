"""The flags of telemeter-server, and the configuration that they and their files make."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Protocol

from twisted.internet.ssl import CertificateOptions
from twisted.python.usage import UsageError

from telemeter.auth.keys import SigningKey, load_key
from telemeter.auth.oidc import check_issuer
from telemeter.auth.settings import (
    AuthorizationSettings,
    MemcachedSettings,
    OIDCSettings,
    TokenSettings,
)
from telemeter.config.files import Contents, Signature, recording, signature
from telemeter.config.flags import (
    LOGGING,
    Flag,
    Flags,
    choice,
    duration,
    header_text,
    integer,
    label_list,
    label_name,
    memcached_list,
    policy_flags,
    positive_duration,
    raw,
    read_file,
    read_policy,
    read_proxies,
    read_secret,
    read_selectors,
    require_satisfiable,
    sample_label_list,
    scope_list,
    selector,
    text,
    tracing_flags,
)
from telemeter.config.listen import is_tcp, listen_address
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.net.proxy import Proxies
from telemeter.net.tls import server_options
from telemeter.net.url import check_http_url
from telemeter.samples.whitelist import Whitelist
from telemeter.store.settings import StoreSettings
from telemeter.upstream.batch import BatchLimits
from telemeter.upstream.settings import ForwardSettings

#: The most processes that answer clients.
MAX_WORKERS: Final = 256


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One of the server's listeners.

    Attributes:
        flag: the name of the flag that says where it listens.
        address: what that flag says; see `telemeter.config.listen`.
        tls: what it shows over TLS; None: it speaks none.
    """

    flag: str
    address: str
    tls: CertificateOptions | None


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """Which samples are accepted and forwarded, and what is changed in them.

    Attributes:
        partition_label: the label that holds the cluster's identifier.
        required_labels: what every incoming sample must carry besides.
        whitelist: the series that are forwarded.
        added_labels: labels to add to every outgoing series.
        elided_labels: labels to remove from every series.
        upload_bytes: the size, decompressed, that an upload must stay under.
        receive_bytes: the size, compressed, that a remote-write request must stay under.
        foreign_ids: whether a remote-write sender may write for other clusters than its own.
        tenant_key: the field of a remote-write token that names the tenant, for the log.
    """

    partition_label: str
    required_labels: Mapping[str, str]
    whitelist: Whitelist
    added_labels: Mapping[str, str]
    elided_labels: frozenset[str]
    upload_bytes: int
    receive_bytes: int
    foreign_ids: bool
    tenant_key: str


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The whole configuration of a telemeter-server: what its flags and their files say.

    Attributes:
        program: the name that messages begin with.
        listen: the listener for clients.
        listen_internal: the listener for operators.
        timeouts: how long who waits for whom.
        workers: how many processes answer clients; 1: this one does.
        tokens: the agents' tokens.
        authorization: whom to ask about tokens.
        oidc: where access tokens come from.
        memcached: what replicas share.
        samples: what becomes of samples.
        forward: where they go.
        store: what is kept of them, if they go nowhere.
        ratelimit_seconds: the shortest time between two uploads of a cluster; 0: no limit.
        fleet_max_clusters: how many clusters the record of the fleet knows; 0: there is none.
        proxies: the proxies for outgoing requests; None: there are none.
        arguments: the command line, for worker processes.
        contents: what is in the files that it names, for worker processes.
    """

    program: str
    listen: ListenerSettings
    listen_internal: ListenerSettings
    timeouts: Timeouts
    workers: int
    tokens: TokenSettings
    authorization: AuthorizationSettings
    oidc: OIDCSettings
    memcached: MemcachedSettings
    samples: SampleSettings
    forward: ForwardSettings
    store: StoreSettings
    ratelimit_seconds: float
    fleet_max_clusters: int
    proxies: Proxies | None
    arguments: Sequence[str] = field(repr=False)
    contents: Contents = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates of the listeners, read again.

    Attributes:
        tls: what the listener for clients shows; None: no TLS.
        internal_tls: what the listener for operators shows; None: no TLS.
        contents: what is in the files, for worker processes.
    """

    tls: CertificateOptions | None
    internal_tls: CertificateOptions | None
    contents: Contents = field(repr=False)


class ConfigReader(Protocol):
    """A way to read the configuration again while the server runs.

    Attributes:
        certificate_paths: the files that `read_certificates` reads.
        certificates_seen: the state of these files before they were read the first time.
    """

    @property
    def certificate_paths(self) -> Sequence[str]:
        """Return the files that `read_certificates` reads."""
        ...

    @property
    def certificates_seen(self) -> Signature:
        """Return the state of those files before they were read the first time."""
        ...

    def read_config(self) -> ServerConfig:
        """Read every file again; raises `UsageError`."""
        ...

    def read_certificates(self) -> Certificates:
        """Read the certificates of the listeners again; raises `UsageError`."""
        ...


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
        Flag(
            "idle-timeout",
            positive_duration,
            TIMEOUTS.idle,
            "How long a client's connection may wait for its next request. Keep it above the idle "
            "timeout of a load balancer in front of the server, which is often 60s.",
            shown="75s",
        ),
        Flag("tls-key", raw, "", "File with the private key (PEM) for --listen.", warns=True),
        Flag(
            "tls-crt",
            raw,
            "",
            "File with the certificate and its chain (PEM) for --listen.",
            warns=True,
        ),
        Flag("internal-tls-key", raw, "", "As --tls-key, for --listen-internal.", warns=True),
        Flag("internal-tls-crt", raw, "", "As --tls-crt, for --listen-internal.", warns=True),
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
            raw,
            [],
            "File with the private key that signs the agents' tokens: RSA, or EC on P-256, P-384 "
            "or P-521; PEM or DER. Servers that share it accept each other's tokens. Of several "
            "the first signs, and all verify.",
            repeated=True,
            shown="a fresh key at every start",
        ),
        Flag(
            "token-expire-seconds",
            # In the original agent's 63 bits of nanoseconds, a longer time has passed already.
            integer(1, 2**63 // 10**9),
            24 * 60 * 60,
            "For how many seconds an agent's token holds.",
        ),
        Flag(
            "authorize",
            check_http_url,
            "",
            "URL of the authorization server. Without it every token is accepted.",
            warns=True,
        ),
        *policy_flags("authorize"),
        Flag(
            "authorize-cache-expire",
            duration,
            300.0,
            "For how long a positive answer of the authorization server about a remote-write token "
            "is kept in this process; 0 for not at all. Not used with --memcached.",
            shown="5m",
        ),
        Flag(
            "authorize-cache-size",
            integer(1),
            100_000,
            "How many of its answers are kept, positive and negative ones each.",
        ),
        Flag(
            "authorize-refused-expire",
            duration,
            10.0,
            "For how long a negative answer about a remote-write token is kept; 0 for not at all.",
            shown="10s",
        ),
        Flag(
            "oidc-issuer",
            check_issuer,
            "",
            "URL of an OpenID Connect issuer whose access tokens are shown to the upstream and to "
            "the authorization server.",
        ),
        Flag("client-id", text, "", "Who the server is to the issuer."),
        Flag("client-secret", text, "", "The server's secret for the issuer.", secret=True),
        Flag("client-secret-file", raw, "", "File with that secret."),
        Flag("oidc-audience", text, "", "The audience to ask tokens for, if the issuer wants it."),
        Flag(
            "oidc-scope",
            scope_list,
            [],
            "A scope to ask tokens for, if the issuer wants it.",
            repeated=True,
        ),
        Flag(
            "oidc-ca-file",
            raw,
            "",
            "File with CA certificates (PEM) to trust for --oidc-issuer, in addition to the "
            "system's.",
        ),
        Flag(
            "memcached",
            memcached_list,
            [],
            "HOST:PORT of memcached servers to keep positive answers in, and who uploaded when, "
            "for servers with replicas.",
            repeated=True,
        ),
        Flag(
            "memcached-expire",
            integer(0, 2**31 - 1),
            24 * 60 * 60,
            "For how many seconds memcached keeps a positive answer; 0 for as long as it can.",
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
            header_text,
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
            "forward-url",
            check_http_url,
            "",
            "Remote-write URL that everything is forwarded to. Without it the latest sample of "
            "every series is kept in memory, and the internal listener shows it.",
            warns=True,
        ),
        Flag(
            "store-retention",
            duration,
            600.0,
            "Without --forward-url: how long after its last request a cluster's series are kept.",
            shown="10m",
        ),
        Flag(
            "store-max-series",
            integer(1),
            1_000_000,
            "Without --forward-url: how many series are kept at the most.",
        ),
        *policy_flags("forward"),
        Flag(
            "forward-batch-requests",
            integer(1),
            64,
            "How many senders' requests may go to --forward-url as one, when they come while "
            "another is under way; 1 for no batches.",
        ),
        Flag(
            "forward-batch-bytes",
            integer(1),
            4 << 20,
            "The size in bytes, decompressed, up to which a request to --forward-url is filled "
            "with those of several senders.",
        ),
        Flag(
            "required-label",
            sample_label_list,
            [],
            "NAME=VALUE labels that every incoming sample must carry; agents learn them from "
            "/authorize.",
            repeated=True,
            warns=True,
        ),
        Flag(
            "whitelist",
            selector,
            [],
            'A PromQL selector such as {__name__="up"}: only series that at least one selects are '
            "forwarded. Without any, all are.",
            repeated=True,
            guards="let every series pass",
        ),
        Flag(
            "whitelist-file",
            raw,
            "",
            "File with more of them, one a line; blank lines and lines starting with # are "
            "ignored.",
            guards="let every series pass",
        ),
        Flag(
            "elide-label",
            label_name,
            [],
            "A label to remove from every series.",
            repeated=True,
            warns=True,
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
            "fleet-max-clusters",
            integer(0, 10_000_000),
            100_000,
            "How many clusters the fleet's page knows; the oldest is forgotten first. Each takes "
            "up to 1 kB of memory. 0: there is no page.",
        ),
        Flag(
            "proxy-from-environment",
            None,
            False,
            "Make outgoing requests through the proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY "
            "name.",
        ),
        Flag(
            "forward-protocol",
            choice("1.0", "2.0"),
            "1.0",
            "The version in which remote write 2.0 is forwarded: 1.0, or 2.0 as it came.",
        ),
        Flag(
            "workers",
            integer(0, MAX_WORKERS),
            1,
            "How many processes answer clients; 0 for as many as there are processors. More than "
            "one need --forward-url.",
        ),
        *LOGGING,
        *tracing_flags("telemeter-server"),
    )

    def parseOptions(self, options: Any = None) -> None:
        """Parse and check, and keep the arguments for worker processes."""
        self.arguments = list(sys.argv[1:] if options is None else options)
        super().parseOptions(options)

    def check(self) -> None:
        """Read every file, so that what is wrong with one is known before anything listens."""
        self.require_listen("listen", "listen-internal")
        if self["tenant-key"] == "authorization_token":
            raise UsageError(
                "--tenant-key 'authorization_token': expected a field that may be logged, this one "
                "is the sender's secret"
            )
        if self["partition-label"] in dict(self["required-label"]):
            raise UsageError(
                f"--required-label {self['partition-label']!r}: expected another label than the "
                "--partition-label, whose value is each cluster's own identifier"
            )
        self._check_workers()
        if not self["store-retention"]:
            raise UsageError("--store-retention 0: expected a duration above 0, such as 10m")
        self.proxies = read_proxies() if self["proxy-from-environment"] else None
        self.certificates_seen = signature(self.certificate_paths)
        self.config = self.read_config()

    def _check_workers(self) -> None:
        if not self["workers"]:
            self["workers"] = min(_processors(), MAX_WORKERS)
        if self["workers"] == 1:
            return
        given = f"--workers {self['workers']}"
        if not self["forward-url"]:
            raise UsageError(
                f"{given} needs --forward-url: samples that are kept in memory are kept by one "
                "process"
            )
        if not is_tcp(self["listen"]):
            raise UsageError(
                f"{given} needs --listen with HOST:PORT or a tcp: endpoint, saw "
                f"{self['listen']!r}; for TLS there are --tls-crt and --tls-key"
            )

    def read_config(self) -> ServerConfig:
        """Read every file now; raises `UsageError`."""
        with recording() as contents:
            return self._read_config(contents)

    def _read_config(self, contents: Contents) -> ServerConfig:
        whitelist = self._read_whitelist()
        tls, internal_tls = self._read_pairs()
        return ServerConfig(
            program=self.program,
            listen=ListenerSettings("listen", self["listen"], tls),
            listen_internal=ListenerSettings(
                "listen-internal", self["listen-internal"], internal_tls
            ),
            timeouts=replace(TIMEOUTS, idle=self["idle-timeout"]),
            workers=self["workers"],
            tokens=TokenSettings(
                tuple(self._read_key(path) for path in self["shared-key"]),
                self["token-expire-seconds"],
            ),
            authorization=AuthorizationSettings(
                self["authorize"],
                read_policy(self, "authorize-ca-file", "authorize-tls-crt", "authorize-tls-key"),
                self["authorize-cache-expire"],
                self["authorize-refused-expire"],
                self["authorize-cache-size"],
            ),
            oidc=OIDCSettings(
                self["oidc-issuer"],
                self["client-id"],
                self._read_client_secret(),
                self["oidc-audience"],
                self["oidc-scope"],
                read_policy(self, "oidc-ca-file"),
            ),
            memcached=MemcachedSettings(
                self["memcached"], self["memcached-expire"], self["memcached-interval"]
            ),
            samples=SampleSettings(
                self["partition-label"],
                dict(self["required-label"]),
                whitelist,
                dict(self["label"]),
                frozenset(self["elide-label"]),
                self["limit-bytes"],
                self["limit-receive-bytes"],
                self["receive-foreign-ids"],
                self["tenant-key"],
            ),
            forward=ForwardSettings(
                self["forward-url"],
                read_policy(self, "forward-ca-file", "forward-tls-crt", "forward-tls-key"),
                self["tenant-id"],
                BatchLimits(self["forward-batch-requests"], self["forward-batch-bytes"]),
                keeps_version=self["forward-protocol"] == "2.0" and bool(self["forward-url"]),
            ),
            store=StoreSettings(self["store-retention"], self["store-max-series"]),
            ratelimit_seconds=self["ratelimit"],
            fleet_max_clusters=self["fleet-max-clusters"],
            proxies=self.proxies,
            arguments=tuple(self.arguments),
            contents=contents,
        )

    def _read_whitelist(self) -> Whitelist:
        rules = list(self["whitelist"])
        given = "--whitelist"
        if self["whitelist-file"]:
            given += f" and --whitelist-file {self['whitelist-file']!r}"
            rules += read_selectors(self, "whitelist-file")
        require_satisfiable(rules, given)
        return Whitelist(rules)

    def _read_client_secret(self) -> str:
        secret = read_secret(self, "client-secret")
        self.require_both("oidc-issuer", "client-id")
        if self["oidc-issuer"] and not secret:
            raise UsageError(
                f"--oidc-issuer {self['oidc-issuer']!r} needs --client-secret or "
                "--client-secret-file, and neither was given"
            )
        if secret and not self["oidc-issuer"]:
            path = self["client-secret-file"]
            given = "--client-secret" if self["client-secret"] else f"--client-secret-file {path!r}"
            raise UsageError(f"{given} needs --oidc-issuer too, which was not given")
        if self["oidc-scope"] and not self["oidc-issuer"]:
            given = f"--oidc-scope {self['oidc-scope'][0]!r}"
            raise UsageError(f"{given} needs --oidc-issuer too, which was not given")
        return secret

    def read_certificates(self) -> Certificates:
        """Read what the listeners show; raises `UsageError`."""
        with recording() as contents:
            tls, internal_tls = self._read_pairs()
        return Certificates(tls, internal_tls, contents)

    def _read_pairs(self) -> tuple[CertificateOptions | None, CertificateOptions | None]:
        return (
            self._read_pair("tls-crt", "tls-key"),
            self._read_pair("internal-tls-crt", "internal-tls-key"),
        )

    @property
    def certificate_paths(self) -> list[str]:
        """Return the files that `read_certificates` reads."""
        names = ("tls-crt", "tls-key", "internal-tls-crt", "internal-tls-key")
        return [self[name] for name in names if self[name]]

    def _read_key(self, path: str) -> SigningKey:
        try:
            return load_key(read_file("shared-key", path))
        except ValueError as error:
            raise UsageError(f"--shared-key {path!r}: {error}") from None

    def _read_pair(self, certificate: str, key: str) -> CertificateOptions | None:
        self.require_both(certificate, key)
        if not self[certificate]:
            return None
        try:
            return server_options(
                read_file(certificate, self[certificate]), read_file(key, self[key])
            )
        except ValueError as error:
            given = ", ".join(f"--{name} {self[name]!r}" for name in (certificate, key))
            raise UsageError(f"{given}: {error}") from None


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
