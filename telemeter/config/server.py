"""The configuration of telemeter-server: frozen, and composed of what each room needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.ssl import CertificateOptions

from telemeter.auth.settings import (
    AuthorizationSettings,
    MemcachedSettings,
    OIDCSettings,
    TokenSettings,
)
from telemeter.config.files import Contents, Signature
from telemeter.fleet.settings import FleetSettings
from telemeter.limits.settings import RateLimitSettings
from telemeter.loop.timeouts import Timeouts
from telemeter.net.proxy import Proxies
from telemeter.store.settings import StoreSettings
from telemeter.upstream.settings import ForwardSettings
from telemeter.web.settings import ListenerSettings, OperatorSettings, SampleSettings


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The whole configuration of a telemeter-server: what its flags and their files say.

    Attributes:
        program: the name that messages begin with.
        listen: the listener for clients.
        listen_internal: the listener for operators.
        timeouts: how long who waits for whom.
        operators: who is let in at the listener for operators.
        connections: how many connections of clients a process may have.
        inflight_bytes: how many bytes of requests a process may hold.
        peer_connections: how many requests to another server are under way at a time.
        workers: how many processes answer clients; 1: this one does.
        tokens: the agents' tokens.
        authorization: whom to ask about tokens.
        oidc: where access tokens come from.
        memcached: what replicas share.
        samples: what becomes of samples.
        forward: where they go.
        store: what is kept of them, if they go nowhere.
        ratelimit: how often a cluster may upload.
        fleet: what the record of the fleet holds.
        proxies: the proxies for outgoing requests; None: there are none.
        arguments: the command line, for worker processes.
        contents: what is in the files that it names, for worker processes.
    """

    program: str
    listen: ListenerSettings
    listen_internal: ListenerSettings
    timeouts: Timeouts
    operators: OperatorSettings
    connections: int
    inflight_bytes: int
    peer_connections: int
    workers: int
    tokens: TokenSettings
    authorization: AuthorizationSettings
    oidc: OIDCSettings
    memcached: MemcachedSettings
    samples: SampleSettings
    forward: ForwardSettings
    store: StoreSettings
    ratelimit: RateLimitSettings
    fleet: FleetSettings
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
