"""Certificates for the programs of one run, from an authority that is gone with it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from demo.stack import HOST
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK

if TYPE_CHECKING:
    from pathlib import Path

    from demo.stack import Stack

_LIFETIME: Final = timedelta(days=30)
# As far as the clock may be set back while the certificates are in use.
_SLACK: Final = timedelta(hours=1)
_PURPOSES: Final = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True)
class Identity:
    """What a program shows over TLS, as server and as client, and whom it trusts: PEM files.

    Attributes:
        certificate: its own certificate.
        key: the private key of that.
        authority: the certificate of the authority that issued it, and those of all others.
    """

    certificate: Path
    key: Path
    authority: Path

    def context(self) -> ssl.SSLContext:
        """Return what a client with this identity makes its connections with."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """Issues certificates for this machine; its own private key is never written to a file.

    Attributes:
        path: its own certificate, as PEM.
    """

    def __init__(self, stack: Stack, name: str = "Demo authority") -> None:
        """Make one, with its files in the stack's folder."""
        self._stack = stack
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        builder = (
            _builder(self._key.public_key(), self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
        )
        self.path = stack.write("ca.crt", _pem(builder.sign(self._key, hashes.SHA256())))

    def issue(self, name: str) -> Identity:
        """Issue a certificate for `localhost` and 127.0.0.1, in NAME.crt and NAME.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))]
        builder = (
            _builder(key.public_key(), _named(name), self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(
            self._stack.write(f"{name}.crt", _pem(builder.sign(self._key, hashes.SHA256()))),
            self._stack.write(f"{name}.key", private),
            self.path,
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(SYSTEM_WALL_CLOCK.now(), UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
