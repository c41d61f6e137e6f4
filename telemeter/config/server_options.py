"""The options of telemeter-server: its flags, checked, and the configuration that they make."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from typing import Any, ClassVar, Final

from twisted.internet.ssl import CertificateOptions
from twisted.python.usage import UsageError

from telemeter.auth.keys import SigningKey, load_key
from telemeter.auth.settings import (
    AuthorizationSettings,
    MemcachedSettings,
    OIDCSettings,
    TokenSettings,
)
from telemeter.config.files import Contents, recording, signature
from telemeter.config.flag_parser import Flags
from telemeter.config.groups import read_operators
from telemeter.config.listen_address import is_tcp
from telemeter.config.reading import (
    read_file,
    read_policy,
    read_proxies,
    read_secret,
    read_selectors,
    require_satisfiable,
)
from telemeter.config.server import Certificates, ServerConfig
from telemeter.config.server_flags import GROUPS, MAX_WORKERS
from telemeter.fleet.settings import FleetSettings
from telemeter.limits.settings import RateLimitSettings
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.net.tls import server_options
from telemeter.samples.whitelist import Whitelist
from telemeter.store.settings import StoreSettings
from telemeter.upstream.batch import BatchLimits
from telemeter.upstream.settings import ForwardSettings
from telemeter.web.settings import ListenerSettings, SampleSettings

#: How many descriptors are left for other servers, operators, workers and files; of a small limit,
#: half.
_RESERVED_FILES: Final = 256
#: More connections than any process could answer.
_MOST_CONNECTIONS: Final = 1_000_000


class Options(Flags):
    """The flags of telemeter-server."""

    program = "telemeter-server"
    synopsis = "[flags]"
    longdesc = (
        "Takes metrics pushed by telemeter-client or written by any Prometheus, checks whose they "
        "are, limits, filters and labels them, and forwards them by remote write."
    )
    groups: ClassVar = GROUPS

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
            timeouts=replace(
                TIMEOUTS,
                idle=self["idle-timeout"],
                handshake=self["handshake-timeout"],
                headers=self["headers-timeout"],
                body=self["body-timeout"],
                request=self["request-timeout"],
            ),
            operators=read_operators(self),
            connections=self["max-connections"] or most_connections(),
            inflight_bytes=self["max-inflight-bytes"],
            peer_connections=self["peer-connections"],
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
                self._received_labels(),
                frozenset(self["elide-label"]),
                self["limit-bytes"],
                self["limit-receive-bytes"],
                self["limit-label-name-bytes"],
                self["limit-label-value-bytes"],
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
            store=StoreSettings(
                self["store-retention"], self["store-max-series"], self["store-max-bytes"]
            ),
            ratelimit=RateLimitSettings(self["ratelimit"]),
            fleet=FleetSettings(
                self["fleet-max-clusters"], self["fleet-retention"], self["fleet-database"]
            ),
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

    def _received_labels(self) -> dict[str, str]:
        """Return the labels to add to remote writes; raises `UsageError`."""
        labels = dict(self["receive-label"])
        partition = self["partition-label"]
        if partition in labels:
            raise UsageError(
                f"--receive-label {f'{partition}={labels[partition]}'!r}: expected another label "
                "than the one that tells clusters apart (--partition-label): all would become one"
            )
        return labels

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


def most_connections() -> int:
    """Return how many connections of clients leave room for a process's other descriptors."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, files - min(_RESERVED_FILES, files // 2))


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
