"""Certificates of trustme's authorities, as the daemons and the test's own servers take them."""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

    from demo.stack import Stack


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its private key: the paths of two PEM files."""

    certificate: Path
    key: Path

    def flags(self, certificate: str, key: str) -> list[str]:
        """Return the two flags that give them."""
        return [certificate, str(self.certificate), key, str(self.key)]


def chain_of(certificate: trustme.LeafCert) -> bytes:
    """Return a certificate with what its issuer needs to be known by, as PEM."""
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def write_pair(stack: Stack, name: str, certificate: trustme.LeafCert) -> Pair:
    """Write a certificate into NAME.crt and NAME.key, each at once, as a careful person does."""
    contents = {"crt": chain_of(certificate), "key": certificate.private_key_pem.bytes()}
    paths = []
    for kind, content in contents.items():
        path = stack.folder / f"{name}.{kind}"
        paths.append(stack.write(f"{path.name}.new", content).replace(path))
    return Pair(*paths)


def server_context(
    certificate: trustme.LeafCert, *, whole_chain: bool = True, wanted: trustme.CA | None = None
) -> ssl.SSLContext:
    """Return what a server of the test shows.

    Args:
        certificate: its certificate.
        whole_chain: whether it shows what lies between the certificate and the authority too.
        wanted: the authority of the certificates that clients must show; None: they need none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if whole_chain:
        certificate.configure_cert(context)
    else:
        with (
            certificate.cert_chain_pems[0].tempfile() as shown,
            certificate.private_key_pem.tempfile() as key,
        ):
            context.load_cert_chain(shown, key)
    if wanted is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        wanted.configure_trust(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """Return what a client of the test trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def only_old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a context speak TLS 1.1 and nothing newer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    # Else OpenSSL itself refuses it.
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context
