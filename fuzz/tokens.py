"""Targets of who somebody says he is, and of what servers of accounts answer."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from fuzz.target import Target, head_and_rest
from telemeter.auth.authorization_server import UnavailableError, _account_of
from telemeter.auth.bearer import NotAuthorizedError, parse_bearer
from telemeter.auth.composite import MalformedTokenError, make_composite, parse_composite
from telemeter.auth.keys import SigningKey
from telemeter.auth.oidc.access import TokenUnavailableError, parse_token
from telemeter.auth.oidc.issuer import _is_endpoint, _why
from telemeter.auth.token import Client, TokenIssuer, TokenVerifier
from telemeter.limits.replicas import _taken_at
from telemeter.loop.clocks import Elapsed, Wall
from telemeter.samples.family import is_utf8
from tests.fakes import NOW

#: Always the same key, so that tokens in the corpus stay good ones. It opens nothing.
_KEY: Final = SigningKey(ec.derive_private_key(20_260_101, ec.SECP256R1()), "ES256")
_NOW: Final = Wall(float(NOW))


def run_composite(data: bytes) -> None:
    """A sender is who he says, in the eyes of every reader of JSON, or is refused."""
    kind, rest = head_and_rest(data)
    if kind & 1:
        header = rest.decode("latin-1")
    else:
        coded = base64.b64encode(rest) if kind & 2 else base64.urlsafe_b64encode(rest).rstrip(b"=")
        header = f"Bearer {coded.decode()}"
    try:
        token = parse_composite(header, "tenant")
    except MalformedTokenError as error:
        assert len(str(error)) < 500
        return
    assert token.cluster and is_utf8(token.cluster)
    fields = json.loads(token.question.decode())
    assert fields["cluster_id"] == token.cluster
    again = make_composite(token.cluster, fields["authorization_token"])
    assert parse_composite(f"bearer {again}").cluster == token.cluster


def run_bearer(data: bytes) -> None:
    """A header holds a token, or is refused in words of ours alone."""
    header = data.decode("latin-1")
    try:
        token = parse_bearer(header)
    except NotAuthorizedError as error:
        assert str(error).isascii() and len(str(error)) < 200
        return
    assert token and token in header


def run_jwt(data: bytes) -> None:
    """Nobody gets in without our signature; with it, claims are in order, or refused."""
    kind, rest = head_and_rest(data)
    token = rest.decode("latin-1") if kind & 1 else _signed(rest)
    if token is None:
        return
    verifier = TokenVerifier([_KEY], remembered=0)
    try:
        client = verifier.verify(token, _NOW)
    except NotAuthorizedError as error:
        assert str(error).isascii() and len(str(error)) < 200
        return
    assert _is_ours(token)
    assert client.expires > _NOW
    assert isinstance(client, Client) and is_utf8(client.subject)
    assert all(is_utf8(text) for pair in client.labels.items() for text in pair)


def _signed(data: bytes) -> str | None:
    """Sign claims as they are, with any header: JSON, a zero byte, and the claims."""
    head, _, claims = data.partition(b"\0")
    try:
        headers: Any = json.loads(head.decode())
        return jwt.api_jws.encode(claims, _KEY.private, algorithm="ES256", headers=headers)
    except (ValueError, TypeError, AttributeError, RuntimeError, jwt.PyJWTError):
        return None  # no such header can be written


def _is_ours(token: str) -> bool:
    """Check a signature without the library that the code uses."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    numbers = (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public = _KEY.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(encode_dss_signature(*numbers), signed.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def run_access_token(data: bytes) -> None:
    """An issuer gives a token that can be shown, for a time that ends, or none."""
    _is_endpoint(data.decode("utf-8", "replace"))
    _why(data)
    try:
        token = parse_token("https://issuer/token", data, Elapsed(1000.0))
    except TokenUnavailableError:
        return
    assert token.value.isascii() and token.value.isprintable() and " " not in token.value
    assert len(token.value) <= 16 * 1024
    assert 1000 <= token.renew <= token.expires <= 1000 + 24 * 3600


def run_account(data: bytes) -> None:
    """An account is a short text, or none; what another server left in memcached is a time."""
    _taken_at(data)
    try:
        account = _account_of(data)
    except UnavailableError as error:
        assert len(str(error)) < 200
        return
    assert is_utf8(account) and len(account) < 10_000


def _composite_seeds() -> list[bytes]:
    good = b'{"authorization_token": "t", "cluster_id": "c", "tenant": "x"}'
    return [
        *(bytes([kind]) + good for kind in (0, 2)),
        b"\x01Bearer " + make_composite("c", "t").encode(),
        b"\0{'authorization_token': 't'}",
        b'\0{"cluster_id": "\\ud800", "authorization_token": "t"}',
        b'\0{"cluster_id": "a", "Cluster_ID": "b", "authorization_token": "t", "x": [1e5, null]}',
    ]


def _jwt_seeds() -> list[bytes]:
    token = TokenIssuer(_KEY, 3600).issue("subject", {"_id": "c"}, _NOW)
    claims = base64.urlsafe_b64decode(token.split(".")[1] + "==")
    none = jwt.encode(json.loads(claims), "", algorithm="none")
    kid = json.dumps({"kid": _KEY.identifier}).encode()
    return [
        b"\x01" + token.encode(),
        b"\x01" + none.encode(),
        b"\0" + kid + b"\0" + claims,
        b"\0{}\0" + claims,
        b'\0{"kid": "other", "crit": ["b64"], "b64": false}\0' + claims,
    ]


_JSON_WORDS: Final = (
    *(b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"1e999", b"-0", b"NaN"),
    *(b"\\ud800", b"\\u0000", b"\xc3\xa9", b"\xff", b"[" * 500, b'{"a":' * 200),
)
TARGETS: Final = (
    Target(
        "composite",
        run_composite,
        _composite_seeds,
        (*_JSON_WORDS, b'"cluster_id"', b'"authorization_token"', b'"CLUSTER_ID"', b'"tenant"'),
        30_000,
    ),
    Target(
        "bearer", run_bearer, lambda: [b"Bearer t", b"BEARER  a b ", b"Basic x"], (b"Bearer ",), 512
    ),
    Target(
        "jwt",
        run_jwt,
        _jwt_seeds,
        (
            *(*_JSON_WORDS, b'"exp"', b'"nbf"', b'"iat"', b'"aud"', b'"iss"', b'"sub"', b'"kid"'),
            *(
                b'"alg"',
                b'"crit"',
                b'"b64"',
                b'"typ"',
                b"telemeter.openshift.io",
                b'"labels"',
                b".",
            ),
        ),
        4096,
    ),
    Target(
        "access-token",
        run_access_token,
        lambda: [
            b'{"access_token": "t", "token_type": "Bearer", "expires_in": 300}',
            b'{"error": "invalid_client", "error_description": "x"}',
            b'{"access_token": "t", "token_type": "mac", "expires_in": "9"}',
        ],
        (*_JSON_WORDS, b'"access_token"', b'"token_type"', b'"expires_in"', b'"error"', b'"scope"'),
        20_000,
    ),
    Target(
        "account",
        run_account,
        lambda: [b'{"account_id": "a"}', b"[]", b"1700000000.123 abcdef", b'{"account_id": 1}'],
        (*_JSON_WORDS, b'"account_id"'),
        20_000,
    ),
)
