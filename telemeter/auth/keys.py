"""The private keys that sign agents' tokens."""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EXPECTED = "expected an RSA key or an EC key on P-256, P-384 or P-521, in PEM or DER"


@dataclass(frozen=True)
class SigningKey:
    """A private key and the JWT algorithm that goes with it."""

    private: PrivateKey
    algorithm: str

    @cached_property
    def identifier(self) -> str:
        """Return the key's name in a token's header `kid`; the same on every server."""
        public = self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(public).hexdigest()[:16]

    def encode(self) -> bytes:
        """Return the private key as `load_key` takes it (PKCS#8, DER): a secret."""
        return self.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> PublicKey:
        """The key that verifies."""
        return self.private.public_key()


def generate_key() -> SigningKey:
    """Return a fresh key on P-256."""
    return SigningKey(ec.generate_private_key(ec.SECP256R1()), "ES256")


def load_key(data: bytes) -> SigningKey:
    """Read a private key: PEM or DER; PKCS#1, PKCS#8 or SEC1.

    Raises:
        ValueError: it is no such key, or of a kind that JWTs are not signed with.
    """
    loader = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    try:
        key = loader(data, password=None)
    except TypeError:
        raise ValueError("the key is encrypted with a password; store it without one") from None
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise ValueError(f"not a readable private key, {_EXPECTED}") from None
    if isinstance(key, rsa.RSAPrivateKey):
        return SigningKey(key, "RS256")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(key.curve.name)
        if algorithm is None:
            raise ValueError(f"an EC key on {key.curve.name}, {_EXPECTED}")
        return SigningKey(key, algorithm)
    kind = type(key).__name__.removeprefix("_").removesuffix("PrivateKey")
    raise ValueError(f"a key of kind {kind}, {_EXPECTED}")
