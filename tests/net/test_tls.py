"""Certificates and keys that belong together, or do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface.verify import verifyObject

from telemeter.net.reloadable import ReloadablePolicy, ReloadableServerContext
from telemeter.net.tls import ClientPolicy, server_options

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def key_of(name: str) -> Key:
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


@cache
def certificate(name: str) -> bytes:
    """A certificate of a key, signed by itself, in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key_of(name).public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x.test")]), critical=False)
    )
    return builder.sign(key_of(name), hashes.SHA256()).public_bytes(Encoding.PEM)


def pem(name: str, encryption: KeySerializationEncryption | None = None) -> bytes:
    """A key in PEM."""
    return key_of(name).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )


NAMES = ["ec", "rsa"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pair(name: str) -> None:
    assert isinstance(server_options(certificate(name), pem(name)).getContext(), SSL.Context)
    ClientPolicy(b"", certificate(name), pem(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_with_the_own_certificate_first(name: str) -> None:
    chain = certificate(name) + certificate("authority")
    server_options(chain, pem(name))
    with pytest.raises(ValueError, match="does not belong to the first certificate"):
        server_options(certificate("authority") + certificate(name), pem(name))


@pytest.mark.parametrize(
    ("certificates", "key"), [("ec", "rsa"), ("rsa", "ec"), ("ec", "ec-2"), ("rsa", "rsa-2")]
)
def test_a_pair_that_does_not_belong_together(certificates: str, key: str) -> None:
    with pytest.raises(ValueError, match="does not belong to the first certificate"):
        server_options(certificate(certificates), pem(key))
    with pytest.raises(ValueError, match="does not belong to the first certificate"):
        ClientPolicy(b"", certificate(certificates), pem(key))


GARBAGE = [b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff"]


@pytest.mark.parametrize("garbage", [b"", *GARBAGE])
def test_no_certificate(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="expected certificates in PEM"):
        server_options(garbage, pem("ec"))


@pytest.mark.parametrize("garbage", GARBAGE)
def test_no_certificate_of_a_client(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="expected certificates in PEM"):
        ClientPolicy(b"", garbage, pem("ec"))


def test_no_private_key() -> None:
    encrypted = pem("ec", BestAvailableEncryption(b"password"))
    for bad in (b"", *GARBAGE, certificate("ec"), encrypted):
        with pytest.raises(ValueError, match="expected a private key in PEM"):
            server_options(certificate("ec"), bad)


def test_authorities() -> None:
    ClientPolicy(certificate("authority"))
    ClientPolicy(certificate("authority") + certificate("ec"))
    ClientPolicy(certificate("authority"), certificate("ec"), pem("ec"))


@pytest.mark.parametrize("garbage", [*GARBAGE, pem("ec")])
def test_no_authorities(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="expected CA certificates in PEM"):
        ClientPolicy(garbage)


def test_a_policy_is_what_agents_take() -> None:
    policy = ClientPolicy()
    assert verifyObject(IPolicyForHTTPS, policy)
    assert policy.creatorForNetloc(b"x.test", 443) is not None


def test_a_listener_can_show_something_else_later() -> None:
    first = server_options(certificate("ec"), pem("ec"))
    second = server_options(certificate("rsa"), pem("rsa"))
    context = ReloadableServerContext(first)
    assert context.getContext() is first.getContext()
    context.reload(second)
    assert context.getContext() is second.getContext()


def test_a_client_can_trust_somebody_else_later() -> None:
    class Policy(ClientPolicy):
        asked: tuple[bytes, int] | None = None

        def creatorForNetloc(self, hostname: bytes, port: int) -> object:
            self.asked = (hostname, port)
            return self

    first, second = Policy(), Policy()
    policy = ReloadablePolicy(first)
    assert verifyObject(IPolicyForHTTPS, policy)
    assert policy.creatorForNetloc(b"x.test", 443) is first
    policy.reload(second)
    assert policy.creatorForNetloc(b"y.test", 444) is second
    assert (first.asked, second.asked) == ((b"x.test", 443), (b"y.test", 444))
