"""TLS: certificates that listeners show, and whom clients trust."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.ssl import (
    CertificateOptions,
    KeyPair,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
)
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer


def _load_pair(certificates: bytes, key: bytes) -> tuple[crypto.PKey, list[crypto.X509]]:
    try:
        chain = x509.load_pem_x509_certificates(certificates)
    except ValueError:
        raise ValueError("expected certificates in PEM, the server's own first") from None
    try:
        private = load_pem_private_key(key, None)
        loaded = crypto.PKey.from_cryptography_key(private)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise ValueError("expected a private key in PEM without a password") from None
    if private.public_key() != chain[0].public_key():
        raise ValueError("the private key does not belong to the first certificate")
    return loaded, [crypto.X509.from_cryptography(certificate) for certificate in chain]


def server_options(certificates: bytes, key: bytes) -> CertificateOptions:
    """What a listener shows: TLS 1.2 and up.

    Args:
        certificates: PEM, the listener's own certificate first, then its chain.
        key: PEM, the private key of the first.

    Raises:
        ValueError: they cannot be read, or do not belong together.
    """
    private, (own, *chain) = _load_pair(certificates, key)
    return CertificateOptions(
        privateKey=private,
        certificate=own,
        extraCertChain=chain,
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )


class SystemAndMore:
    """Trusts the system's certificate authorities, and some others."""

    def __init__(self, authorities: list[crypto.X509]) -> None:
        self._authorities = authorities

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        """What Twisted calls on a trust root."""
        context.set_default_verify_paths()
        store = context.get_cert_store()
        assert store is not None
        for authority in self._authorities:
            store.add_cert(authority)


@implementer(IPolicyForHTTPS)
class ClientPolicy:
    """Verifies servers, and may show a certificate of its own."""

    def __init__(
        self,
        authorities: bytes = b"",
        certificates: bytes = b"",
        key: bytes = b"",
    ) -> None:
        """Make a policy.

        Args:
            authorities: PEM, trusted in addition to the system's.
            certificates: PEM, the certificate to show.
            key: PEM, its private key.

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
        self._trust: Any = SystemAndMore(loaded)
        self._own: PrivateCertificate | None = None
        if certificates:
            private, (own, *_) = _load_pair(certificates, key)
            self._own = PrivateCertificate(own)
            self._own._setPrivateKey(KeyPair(private))

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return optionsForClientTLS(
            hostname.decode("ascii"), trustRoot=self._trust, clientCertificate=self._own
        )
