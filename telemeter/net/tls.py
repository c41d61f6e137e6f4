"""TLS: certificates that listeners show, and whom clients trust."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from telemeter.loop.twisted_private import TrustRoot
from telemeter.net.handshake import Peer, WatchedConnection, note_request


def _options(
    certificates: bytes, key: bytes, trust: SystemAndMore | None = None
) -> CertificateOptions:
    """Options with a certificate of our own, tried once; raises ValueError."""
    try:
        own, *chain = x509.load_pem_x509_certificates(certificates)
    except ValueError:
        raise ValueError("expected certificates in PEM, the server's own first") from None
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise ValueError("expected a private key in PEM without a password") from None
    if private.public_key() != own.public_key():
        raise ValueError("the private key does not belong to the first certificate")
    # Twisted hands these on to pyOpenSSL, which prefers the objects of cryptography to its own.
    # The annotations of some of its versions do not know that.
    objects: dict[str, Any] = {"privateKey": private, "certificate": own, "extraCertChain": chain}
    options: CertificateOptions = CertificateOptions(
        **objects,
        trustRoot=trust,
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )
    try:
        options.getContext()
    except (SSL.Error, TypeError) as error:
        raise ValueError(f"OpenSSL does not take the certificate or its key: {error}") from None
    return options


def server_options(certificates: bytes, key: bytes) -> CertificateOptions:
    """Return what a listener shows: TLS 1.2 and up.

    Args:
        certificates: PEM, the listener's own certificate first, then its chain.
        key: PEM, the private key of the first.

    Raises:
        ValueError: they cannot be read, or do not belong together.
    """
    return _options(certificates, key)


class SystemAndMore(TrustRoot):
    """A trust root of the system's certificate authorities and some others.

    What is trusted need not be a root: a chain may end at an intermediate authority, or at the
    server's own certificate, as it may for programs written in Go.
    """

    def __init__(self, authorities: list[crypto.X509]) -> None:
        self._authorities = authorities

    def add_to(self, context: SSL.Context) -> None:
        context.set_default_verify_paths()
        store = context.get_cert_store()
        assert store is not None
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        for authority in self._authorities:
            store.add_cert(authority)
        context.set_info_callback(note_request)


@implementer(IOpenSSLClientConnectionCreator)
class _Connector:
    """A maker of the connections to one server."""

    def __init__(self, policy: ClientPolicy, host: str, port: int) -> None:
        self._policy = policy
        self._host = host
        self._port = port

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._policy.connection(self._host, self._port)


@implementer(IPolicyForHTTPS)
class ClientPolicy:
    """A policy that verifies servers, and may show a certificate of its own: TLS 1.2 and up.

    The host must be among the certificate's subjectAltNames, as a name or as an IP address. A
    failed handshake ends with a `telemeter.net.handshake.TLSError`, which says why in words.

    The system's authorities are read once, when they are first needed.
    """

    def __init__(
        self,
        authorities: bytes = b"",
        certificates: bytes = b"",
        key: bytes = b"",
        *,
        authority_flag: str = "",
        certificate_flag: str = "",
    ) -> None:
        """Make a policy.

        Args:
            authorities: PEM, trusted in addition to the system's.
            certificates: PEM, the certificate to show, then its chain.
            key: PEM, its private key.
            authority_flag: the flag that gives `authorities`, for error messages.
            certificate_flag: the flag that gives `certificates`, for error messages.

        Raises:
            ValueError: something cannot be read, or does not belong together.
        """
        loaded = []
        if authorities:
            try:
                loaded = [
                    crypto.X509.from_cryptography(authority)
                    for authority in x509.load_pem_x509_certificates(authorities)
                ]
            except ValueError:
                raise ValueError("expected CA certificates in PEM") from None
        trust = SystemAndMore(loaded)
        self._has_certificate = bool(certificates)
        self._authority_flag = authority_flag
        self._certificate_flag = certificate_flag
        self._options = (
            _options(certificates, key, trust)
            if certificates
            else CertificateOptions(trustRoot=trust, raiseMinimumTo=TLSVersion.TLSv1_2)
        )

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return _Connector(self, hostname.decode("ascii"), port)

    def connection(self, host: str, port: int) -> WatchedConnection:
        """Return a new connection to a server, before its handshake."""
        peer = Peer(
            host,
            port,
            has_certificate=self._has_certificate,
            authority_flag=self._authority_flag,
            certificate_flag=self._certificate_flag,
        )
        return WatchedConnection(self._options.getContext(), peer)
