"""Private keys, in every form that openssl writes them."""

from __future__ import annotations

import base64
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from telemeter.auth.keys import PrivateKey, SigningKey, generate_key, load_key

CURVES: dict[str, tuple[ec.EllipticCurve, str, bytes]] = {
    "P-256": (ec.SECP256R1(), "ES256", bytes.fromhex("06082A8648CE3D030107")),
    "P-384": (ec.SECP384R1(), "ES384", bytes.fromhex("06052B81040022")),
    "P-521": (ec.SECP521R1(), "ES512", bytes.fromhex("06052B81040023")),
}
KINDS = {"RSA": "RS256", **{name: algorithm for name, (_, algorithm, _) in CURVES.items()}}
# TraditionalOpenSSL is PKCS#1 for RSA, and SEC1 for EC.
FORMATS = [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]


@cache
def private_key(kind: str) -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(CURVES[kind][0])


def written(
    kind: str,
    encoding: Encoding = Encoding.PEM,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return private_key(kind).private_bytes(encoding, form, encryption or NoEncryption())


def assert_is(loaded: SigningKey, kind: str) -> None:
    assert loaded.algorithm == KINDS[kind]
    assert loaded.private.private_numbers() == private_key(kind).private_numbers()
    assert loaded.public.public_numbers() == private_key(kind).public_key().public_numbers()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS, ids=["PKCS8", "traditional"])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER], ids=["PEM", "DER"])
def test_every_form(kind: str, form: PrivateFormat, encoding: Encoding) -> None:
    assert_is(load_key(written(kind, encoding, form)), kind)


def test_the_forms_are_what_they_are_called() -> None:
    traditional = PrivateFormat.TraditionalOpenSSL
    assert written("RSA").startswith(b"-----BEGIN PRIVATE KEY-----")
    assert written("RSA", form=traditional).startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert written("P-256", form=traditional).startswith(b"-----BEGIN EC PRIVATE KEY-----")


@pytest.mark.parametrize("curve", CURVES)
def test_a_block_of_parameters_before_the_key(curve: str) -> None:
    # openssl ecparam -genkey writes both.
    _, _, oid = CURVES[curve]
    parameters = (
        b"-----BEGIN EC PARAMETERS-----\n"
        + base64.b64encode(oid)
        + b"\n-----END EC PARAMETERS-----\n"
    )
    key = written(curve, form=PrivateFormat.TraditionalOpenSSL)
    assert_is(load_key(parameters + key), curve)


@pytest.mark.parametrize("kind", KINDS)
def test_text_around_the_key(kind: str) -> None:
    text = b"Bag Attributes\n    localKeyID: 01\n" + written(kind) + b"\n\n"
    assert_is(load_key(text), kind)
    assert_is(load_key(written(kind).replace(b"\n", b"\r\n")), kind)


@pytest.mark.parametrize("form", FORMATS, ids=["PKCS8", "traditional"])
@pytest.mark.parametrize("kind", ["RSA", "P-256"])
def test_an_encrypted_key_is_refused(kind: str, form: PrivateFormat) -> None:
    data = written(kind, form=form, encryption=BestAvailableEncryption(b"password"))
    with pytest.raises(ValueError, match="encrypted with a password"):
        load_key(data)


def test_an_encrypted_key_in_der_is_refused() -> None:
    data = written("RSA", Encoding.DER, encryption=BestAvailableEncryption(b"password"))
    with pytest.raises(ValueError, match="encrypted with a password"):
        load_key(data)


def pkcs8(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
        (x25519.X25519PrivateKey.generate(), "X25519"),
        (dsa.generate_private_key(1024), "DSA"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ec.generate_private_key(ec.SECP224R1()), "secp224r1"),
        (ec.generate_private_key(ec.BrainpoolP256R1()), "brainpoolP256r1"),
    ],
    ids=["Ed25519", "Ed448", "X25519", "DSA", "secp256k1", "secp224r1", "brainpool"],
)
def test_a_key_that_tokens_are_not_signed_with(key: object, name: str) -> None:
    with pytest.raises(ValueError, match="expected an RSA key or an EC key") as caught:
        load_key(pkcs8(key))
    assert name in str(caught.value)


def spoiled() -> dict[str, bytes]:
    public = private_key("P-256").public_key()
    pem = written("P-256")
    return {
        "nothing": b"",
        "garbage": b"garbage",
        "binary garbage": bytes(range(256)),
        "public key": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "public key in DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "only a head": b"-----BEGIN PRIVATE KEY-----\n",
        "nothing inside": b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        "no base64": b"-----BEGIN PRIVATE KEY-----\n\xff\xfe!\n-----END PRIVATE KEY-----\n",
        "cut off": pem[:-40],
        "cut off in DER": written("RSA", Encoding.DER)[:-10],
        "a certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "wrong label": pem.replace(b"PRIVATE KEY", b"SECRET KEY"),
    }


@pytest.mark.parametrize("name", spoiled())
def test_what_is_no_private_key(name: str) -> None:
    with pytest.raises(ValueError, match="expected an RSA key or an EC key"):
        load_key(spoiled()[name])


def test_a_fresh_key_is_on_p_256() -> None:
    one, other = generate_key(), generate_key()
    assert one.algorithm == "ES256"
    assert isinstance(one.private, ec.EllipticCurvePrivateKey)
    assert one.private.curve.name == "secp256r1"
    assert one.identifier != other.identifier


def test_an_identifier_is_the_same_for_every_form_of_a_key() -> None:
    identifiers = {
        load_key(written("RSA", encoding, form)).identifier
        for form in FORMATS
        for encoding in (Encoding.PEM, Encoding.DER)
    }
    assert len(identifiers) == 1
    assert load_key(written("P-256")).identifier not in identifiers


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_does_not_show_itself(kind: str) -> None:
    shown = repr(load_key(written(kind)))
    numbers = private_key(kind).private_numbers()
    secret = numbers.d if isinstance(numbers, rsa.RSAPrivateNumbers) else numbers.private_value
    assert str(secret) not in shown
    assert f"{secret:x}" not in shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_can_be_handed_on(kind: str) -> None:
    key = load_key(written(kind))
    assert load_key(key.encode()).identifier == key.identifier
