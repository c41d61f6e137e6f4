"""The short-lived tokens: who may sign them, and which are believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from telemeter.auth.bearer import NotAuthorizedError
from telemeter.auth.keys import SigningKey, generate_key
from telemeter.auth.token import Client, TokenIssuer, TokenVerifier
from telemeter.loop.clocks import Wall
from tests.fakes import NOW

KINDS = ["RS256", "ES256", "ES384", "ES512"]
LABELS = {"_id": "c", "tier": "gold"}


@cache
def key_of(algorithm: str, number: int = 0) -> SigningKey:
    if algorithm == "RS256":
        return SigningKey(rsa.generate_private_key(65537, 2048), algorithm)
    curves: dict[str, ec.EllipticCurve] = {
        "ES256": ec.SECP256R1(),
        "ES384": ec.SECP384R1(),
        "ES512": ec.SECP521R1(),
    }
    return SigningKey(ec.generate_private_key(curves[algorithm]), algorithm)


KEY = key_of("ES256")


def good_claims() -> dict[str, Any]:
    return {
        "iss": "telemeter.selfsigned",
        "aud": ["telemeter-client"],
        "sub": "account",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 600,
        "telemeter.openshift.io": {"labels": LABELS},
    }


def encoded(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(payload: object, header: object = None, key: SigningKey = KEY) -> str:
    """A token with any header and any payload at all, and a good signature."""
    start = f"{encoded(header or {'alg': key.algorithm, 'typ': 'JWT'})}.{encoded(payload)}"
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    return f"{start}.{encoded(algorithm.sign(start.encode(), key.private))}"


def refusal(token: str, *keys: SigningKey, now: float = NOW) -> str:
    with pytest.raises(NotAuthorizedError) as caught:
        TokenVerifier(keys or (KEY,)).verify(token, Wall(now))
    reason = str(caught.value)
    assert token not in reason or not token
    return reason


# --- Issuing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_claims(algorithm: str) -> None:
    key = key_of(algorithm)
    token = TokenIssuer(key, 86_400).issue("account", LABELS, Wall(NOW + 0.9))
    header = jwt.get_unverified_header(token)
    assert header == {"alg": algorithm, "typ": "JWT", "kid": key.identifier}
    claims = jwt.decode(
        token,
        key.public,
        algorithms=[algorithm],
        audience="telemeter-client",
        options={"verify_exp": False},
    )
    assert claims == {**good_claims(), "exp": NOW + 86_400}
    assert all(isinstance(claims[name], int) for name in ("iat", "nbf", "exp"))


@pytest.mark.parametrize("algorithm", KINDS)
def test_what_is_issued_is_believed(algorithm: str) -> None:
    key = key_of(algorithm)
    token = TokenIssuer(key, 600).issue("account", LABELS, Wall(NOW))
    client = TokenVerifier([key]).verify(token, Wall(NOW))
    assert client == Client("account", LABELS, Wall(NOW + 600))


@pytest.mark.parametrize("text", ["", "\u00fc", "\n", '"', "\\", "\x00", "x" * 1000, "\U0001f600"])
def test_texts_survive(text: str) -> None:
    token = TokenIssuer(KEY, 600).issue(text, {"_id": text}, Wall(NOW))
    client = TokenVerifier([KEY]).verify(token, Wall(NOW))
    assert (client.subject, client.labels) == (text, {"_id": text})


# --- Times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [NOW, NOW + 599, NOW + 599.999])
def test_a_token_holds_until_it_expires(now: float) -> None:
    TokenVerifier([KEY]).verify(signed(good_claims()), Wall(now))


@pytest.mark.parametrize("now", [NOW + 600, NOW + 600.001, NOW + 1e9])
def test_a_token_expires(now: float) -> None:
    assert refusal(signed(good_claims()), now=now) == "the token has expired"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_the_clock_of_another_server_may_be_a_minute_ahead(claim: str) -> None:
    verifier = TokenVerifier([KEY])
    for ahead in (0, 1, 60):
        verifier.verify(signed({**good_claims(), claim: NOW + ahead}), Wall(NOW))
    for ahead in (61, 3600):
        token = signed({**good_claims(), claim: NOW + ahead})
        assert "not valid yet" in refusal(token)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_need_not_say_when_it_began(claim: str) -> None:
    claims = good_claims()
    del claims[claim]
    TokenVerifier([KEY]).verify(signed(claims), Wall(NOW))


def test_fractions_of_a_second() -> None:
    token = signed({**good_claims(), "exp": NOW + 0.5})
    TokenVerifier([KEY]).verify(token, Wall(NOW + 0.4))
    assert refusal(token, now=NOW + 0.5) == "the token has expired"


# --- Issuer and audience --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "issuer", ["", "telemeter", "telemeter.selfsigned ", "TELEMETER.SELFSIGNED"]
)
def test_another_issuer(issuer: str) -> None:
    assert "issuer" in refusal(signed({**good_claims(), "iss": issuer}))


@pytest.mark.parametrize("audience", ["", "federate", [], ["a", "b"], ["telemeter-client "]])
def test_another_audience(audience: object) -> None:
    refusal(signed({**good_claims(), "aud": audience}))


@pytest.mark.parametrize("audience", ["telemeter-client", ["x", "telemeter-client"]])
def test_one_audience_of_several(audience: object) -> None:
    TokenVerifier([KEY]).verify(signed({**good_claims(), "aud": audience}), Wall(NOW))


@pytest.mark.parametrize("claim", ["iss", "aud", "exp"])
def test_what_must_be_there(claim: str) -> None:
    claims = good_claims()
    del claims[claim]
    refusal(signed(claims))


# --- Malformed claims -----------------------------------------------------------------------------

ANYTHING: list[object] = [
    None,
    True,
    False,
    -1,
    10**400,
    1e308,
    "",
    "text",
    [],
    ["a"],
    [["a", "b"]],
    ["ab"],
    {},
    {"a": 1},
    {"a": {"b": "c"}},
]


@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("claim", ["iss", "aud", "exp", "nbf", "iat", "sub", "jti"])
def test_claims_of_any_type_are_refused_or_harmless(claim: str, value: object) -> None:
    try:
        client = TokenVerifier([KEY]).verify(signed({**good_claims(), claim: value}), Wall(NOW))
    except NotAuthorizedError:
        return
    assert client.labels == LABELS
    assert isinstance(client.subject, str)
    assert client.expires > NOW
    assert claim not in ("iss", "aud")


@pytest.mark.parametrize("value", ["text", 1, True, ["a"], [["a", "b"]], ["ab"], -1.5], ids=repr)
def test_a_private_claim_that_is_no_object_is_refused(value: object) -> None:
    assert "malformed" in refusal(signed({**good_claims(), "telemeter.openshift.io": value}))


@pytest.mark.parametrize(
    "labels",
    [
        "text",
        1,
        True,
        ["a"],
        ["ab"],
        [["_id", "c"]],
        {"_id": 1},
        {"_id": None},
        {"_id": ["c"]},
        {"_id": "\ud800"},
        {"\ud800": "c"},
    ],
    ids=repr,
)
def test_labels_that_are_no_texts_by_name_are_refused(labels: object) -> None:
    private = {"labels": labels}
    assert "malformed" in refusal(signed({**good_claims(), "telemeter.openshift.io": private}))


@pytest.mark.parametrize("value", [None, {}, {"labels": None}, {"labels": {}}, {"other": 1}])
def test_a_token_may_have_no_labels(value: object) -> None:
    token = signed({**good_claims(), "telemeter.openshift.io": value})
    assert TokenVerifier([KEY]).verify(token, Wall(NOW)).labels == {}


@pytest.mark.parametrize("subject", [1, ["a"], {"a": "b"}, True, "\ud800"], ids=repr)
def test_a_subject_that_is_no_text_is_refused(subject: object) -> None:
    refusal(signed({**good_claims(), "sub": subject}))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none(claim: str, number: str) -> None:
    payload = json.dumps({**good_claims(), claim: "HERE"}).replace('"HERE"', number).encode()
    refusal(signed(payload))


@pytest.mark.parametrize("value", [str(NOW + 600), True, [NOW + 600]], ids=repr)
def test_a_time_that_is_no_number_is_refused(value: object) -> None:
    for claim in ("exp", "nbf", "iat"):
        assert "malformed" in refusal(signed({**good_claims(), claim: value}))


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"null", b"[]", b'"text"', b"7", b"\xff\xfe", DEEP, b'{"exp":' + DEEP, b"{}"],
    ids=["empty", "half", "null", "list", "text", "number", "binary", "deep", "deep exp", "bare"],
)
def test_payloads_that_are_no_claims(payload: bytes) -> None:
    refusal(signed(payload))


@pytest.mark.parametrize(
    "header",
    [
        b"x",
        b"\xff",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"[" * 100_000,
        {"typ": "JWT"},
        {"alg": None},
        {"alg": 7},
        {"alg": ["ES256"]},
        {"alg": {}},
        {"alg": "ES256", "kid": 7},
        {"alg": "ES256", "kid": ["a"]},
        {"alg": "ES256", "kid": "unknown"},
        {"alg": "ES256", "kid": ""},
        {"alg": "ES256", "crit": ["x"], "x": 1},
        {"alg": "ES256", "b64": False, "crit": ["b64"]},
    ],
    ids=lambda header: repr(header)[:30],
)
def test_headers_that_are_none(header: object) -> None:
    refusal(signed(good_claims(), header))


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a", "a.b", "a.b.c", "a.b.c.d", "\u00fc.\u00fc.\u00fc", "\x00", "=.=.="],
)
def test_what_is_no_token(token: str) -> None:
    refusal(token)


def test_a_long_token() -> None:
    refusal("a" * 1_000_000)
    refusal(".".join(["a" * 300_000] * 3))


# --- Signatures -----------------------------------------------------------------------------------


def parts(token: str) -> list[str]:
    return token.split(".")


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_payload_that_was_tampered_with(algorithm: str) -> None:
    key = key_of(algorithm)
    header, payload, signature = parts(TokenIssuer(key, 600).issue("account", LABELS, Wall(NOW)))
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["telemeter.openshift.io"]["labels"]["_id"] = "other"
    refusal(f"{header}.{encoded(claims)}.{signature}", key)


@pytest.mark.parametrize("algorithm", KINDS)
def test_signatures_that_are_none(algorithm: str) -> None:
    key = key_of(algorithm)
    header, payload, signature = parts(TokenIssuer(key, 600).issue("account", LABELS, Wall(NOW)))
    flipped = "A" if signature[0] != "A" else "B"
    for bad in ("", "AAAA", signature[:-4], signature + "AAAA", flipped + signature[1:], "!"):
        refusal(f"{header}.{payload}.{bad}", key)


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_key_of_somebody_else(algorithm: str) -> None:
    token = TokenIssuer(key_of(algorithm, 1), 600).issue("account", LABELS, Wall(NOW))
    refusal(token, key_of(algorithm))
    refusal(signed(good_claims(), key=key_of(algorithm, 1)), key_of(algorithm))


@pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_no_signature_at_all(name: str, signature: str) -> None:
    refusal(f"{encoded({'alg': name, 'typ': 'JWT'})}.{encoded(good_claims())}.{signature}")


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_public_key_is_no_secret(algorithm: str, encoding: Encoding) -> None:
    # The classic confusion: HS256, with what everybody knows as the secret.
    key = key_of(algorithm)
    secret = key.public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": key.identifier}):
        start = f"{encoded(header)}.{encoded(good_claims())}"
        signature = hmac.new(secret, start.encode(), hashlib.sha256).digest()
        refusal(f"{start}.{encoded(signature)}", key)


@pytest.mark.parametrize("other", ["RS384", "RS512", "PS256"])
def test_a_key_signs_with_its_own_algorithm_only(other: str) -> None:
    key = key_of("RS256")
    token = jwt.encode(good_claims(), key.private, algorithm=other)
    refusal(token, key)


@pytest.mark.parametrize("claimed", ["ES256", "ES384", "ES512", "RS256", "HS256", "EdDSA"])
def test_the_header_does_not_choose_the_algorithm(claimed: str) -> None:
    for algorithm in KINDS:
        if algorithm != claimed:
            refusal(signed(good_claims(), {"alg": claimed}, key_of(algorithm)), key_of(algorithm))


# --- Several keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("with_kid", [True, False])
def test_every_key_verifies(algorithm: str, with_kid: bool) -> None:
    key = key_of(algorithm)
    verifier = TokenVerifier([key_of(each) for each in KINDS] + [key_of("ES256", 1)])
    token = TokenIssuer(key, 600).issue("account", LABELS, Wall(NOW))
    if not with_kid:  # as from the original
        token = signed(good_claims(), key=key)
    assert verifier.verify(token, Wall(NOW)).labels == LABELS


def test_the_reason_is_that_of_the_key_that_signed() -> None:
    keys = [key_of("ES256"), key_of("ES256", 1), key_of("RS256")]
    token = signed({**good_claims(), "iss": "other"}, key=keys[1])
    assert "issuer" in refusal(token, *keys)


def test_a_token_that_names_another_key_is_not_tried_with_it() -> None:
    keys = [key_of("ES256"), key_of("ES256", 1)]
    header = {"alg": "ES256", "kid": keys[1].identifier}
    refusal(signed(good_claims(), header, keys[0]), *keys)


def test_a_key_that_was_removed_is_worth_nothing() -> None:
    old, new = generate_key(), generate_key()
    token = TokenIssuer(old, 600).issue("account", LABELS, Wall(NOW))
    TokenVerifier([new, old]).verify(token, Wall(NOW))
    refusal(token, new)


def test_without_keys_nothing_is_believed() -> None:
    with pytest.raises(NotAuthorizedError):
        TokenVerifier([]).verify(signed(good_claims()), Wall(NOW))


# --- What is remembered ---------------------------------------------------------------------------


def verified(verifier: TokenVerifier, token: str, now: float = NOW) -> str:
    """The subject of a token, or why it is refused."""
    try:
        return verifier.verify(token, Wall(now)).subject
    except NotAuthorizedError as error:
        return str(error)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens of which the signature was checked."""
    tokens: list[str] = []
    decode = jwt.decode

    def spy(token: str, *arguments: Any, **keywords: Any) -> Any:
        tokens.append(token)
        return decode(token, *arguments, **keywords)

    monkeypatch.setattr(jwt, "decode", spy)
    return tokens


def test_a_signature_is_checked_once(decoded: list[str]) -> None:
    verifier, issuer = TokenVerifier([KEY]), TokenIssuer(KEY, 600)
    tokens = [issuer.issue(name, {}, Wall(NOW)) for name in ("a", "b")]
    for _ in range(3):
        assert [verified(verifier, token) for token in tokens] == ["a", "b"]
    assert decoded == tokens
    assert verifier.verify(tokens[0], Wall(NOW)) is verifier.verify(tokens[0], Wall(NOW + 1))


def test_what_is_remembered_expires(decoded: list[str]) -> None:
    verifier = TokenVerifier([KEY])
    token = TokenIssuer(KEY, 600).issue("a", {}, Wall(NOW))
    assert verified(verifier, token, NOW + 599.9) == "a"
    assert verified(verifier, token, NOW + 600) == "the token has expired"
    assert verified(verifier, token, NOW + 599.9) == "a"
    assert len(decoded) == 2


def test_what_was_refused_is_not_remembered() -> None:
    verifier = TokenVerifier([KEY])
    token = TokenIssuer(KEY, 600).issue("a", {}, Wall(NOW + 600))
    assert verified(verifier, token) == "the token is not valid yet: check the clocks"
    assert verified(verifier, token, NOW + 600) == "a"
    assert len(verifier) == 1


def test_a_token_that_differs_a_little_is_not_a_known_one() -> None:
    verifier = TokenVerifier([KEY])
    token = TokenIssuer(KEY, 600).issue("a", {}, Wall(NOW))
    assert verified(verifier, token) == "a"
    for other in (token[:-4], token + "A", token.swapcase(), token + "\udc80", "é" + token):
        assert verified(verifier, other) == "the token could not be verified"


def test_no_more_than_so_many_are_remembered(decoded: list[str]) -> None:
    verifier, issuer = TokenVerifier([KEY], remembered=2), TokenIssuer(KEY, 600)
    tokens = [issuer.issue(name, {}, Wall(NOW + number)) for number, name in enumerate("abcd")]
    for _ in range(2):
        assert [verified(verifier, token) for token in tokens] == list("abcd")
        assert len(verifier) == 2
    assert decoded == [*tokens, *tokens[2:]]
    assert verified(verifier, tokens[3], NOW + 600) == "d"  # the place of one that has expired
    assert verified(verifier, tokens[3], NOW + 600) == "d"
    assert len(decoded) == 7


def test_nothing_may_be_remembered(decoded: list[str]) -> None:
    verifier = TokenVerifier([KEY], remembered=0)
    token = TokenIssuer(KEY, 600).issue("a", {}, Wall(NOW))
    assert [verified(verifier, token), verified(verifier, token)] == ["a", "a"]
    assert len(decoded) == 2
