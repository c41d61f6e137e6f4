from __future__ import annotations

import base64
import json
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.auth.composite import (
    CompositeToken,
    MalformedTokenError,
    make_composite,
    parse_composite,
)

SECRET: Final = "s3cr3t-T0ken"
CLUSTER: Final = "2f6b4a3e-cluster"
FIELDS: Final = {"authorization_token": SECRET, "cluster_id": CLUSTER}
EXPECTED: Final = 'base64 of {"authorization_token": "...", "cluster_id": "..."}'
NO_JSON: Final = f"the token holds no JSON; expected {EXPECTED}"
NO_TEXTS: Final = "the token's JSON must have the texts authorization_token and cluster_id"
TWICE: Final = f"the token's JSON has a name twice; expected {EXPECTED}"
SINGLE_QUOTES: Final = (
    "the token holds single quotes where JSON has double quotes, as an old version of the "
    f"documentation showed; expected {EXPECTED}"
)


def encoded(question: bytes | str) -> str:
    data = question.encode() if isinstance(question, str) else question
    return base64.b64encode(data).decode()


def parsed(question: bytes | str, tenant_key: str = "") -> CompositeToken:
    return parse_composite(f"Bearer {encoded(question)}", tenant_key)


def refusal_of(header: str | None) -> str:
    """Why a header is refused; the reason must tell nothing of what the token holds."""
    with pytest.raises(MalformedTokenError) as caught:
        parse_composite(header)
    reason = str(caught.value)
    token = (header or "").partition(" ")[2]
    for word in (SECRET, CLUSTER, encoded(SECRET)[:8], token[-16:]):
        assert not word or word not in reason
    # Neither does what logging an exception shows besides its text.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return reason


class TestForms:
    #: Its base64 has characters in which the two alphabets differ, and two characters of padding.
    QUESTION: Final = '{"authorization_token": "\u07ff?\u03ff?>~~", "cluster_id": "ÿÿ>>??~ü "}'

    @pytest.mark.parametrize("blanks", range(3))
    @pytest.mark.parametrize("url_safe", [False, True])
    @pytest.mark.parametrize("padded", [False, True])
    def test_both_alphabets_padded_or_not(self, blanks: int, url_safe: bool, padded: bool) -> None:
        question = (self.QUESTION + " " * blanks).encode()
        encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
        token = encode(question).decode()
        assert bool(set(token) & set("-_")) is url_safe
        assert bool(set(token) & set("+/")) is not url_safe
        header = "Bearer " + (token if padded else token.rstrip("="))
        found = parse_composite(header)
        assert (found.question, found.cluster) == (question, "ÿÿ>>??~ü ")

    def test_paddings_of_all_lengths_were_among_them(self) -> None:
        lengths = {len(f"{self.QUESTION}{' ' * blanks}".encode()) % 3 for blanks in range(3)}
        assert lengths == {0, 1, 2}

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_scheme_is_case_insensitive(self, scheme: str) -> None:
        header = f"{scheme}  {encoded(json.dumps(FIELDS))} "
        assert parse_composite(header).cluster == CLUSTER

    @given(st.text(min_size=1), st.text(min_size=1))
    def test_what_we_make_we_read(self, cluster: str, secret: str) -> None:
        token = make_composite(cluster, secret)
        assert re.fullmatch(r"[A-Za-z0-9+/]+=*", token)
        found = parse_composite(f"Bearer {token}")
        assert found.cluster == cluster
        assert json.loads(found.question) == {"authorization_token": secret, "cluster_id": cluster}

    def test_the_question_is_what_was_sent_byte_for_byte(self) -> None:
        question = (
            ' {"cluster_id":"c","more": [1.50, {"a": null}],\n"authorization_token":"\\u0073"}'
        )
        assert parsed(question).question == question.encode()


class TestTenant:
    QUESTION: Final = json.dumps({**FIELDS, "tenant": "acme", "number": 7, "empty": ""})

    @pytest.mark.parametrize(
        ("key", "tenant"),
        [
            ("tenant", "acme"),
            ("cluster_id", CLUSTER),
            ("", ""),
            ("absent", ""),
            ("number", ""),
            ("empty", ""),
        ],
    )
    def test_is_the_field_of_the_key(self, key: str, tenant: str) -> None:
        assert parsed(self.QUESTION, key).tenant == tenant

    def test_an_empty_key_names_no_field(self) -> None:
        assert parsed(json.dumps({**FIELDS, "": "acme"}), "").tenant == ""


class TestRefusals:
    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            (None, "no Authorization header, expected: Authorization: Bearer TOKEN"),
            ("", "only bearer authorization is allowed"),
            (f"Basic {encoded(SECRET)}", "only bearer authorization is allowed"),
            (encoded(json.dumps(FIELDS)), "only bearer authorization is allowed"),
            ("Bearer", "the Authorization header has no token behind Bearer"),
            ("Bearer   ", "the Authorization header has no token behind Bearer"),
        ],
    )
    def test_headers(self, header: str | None, reason: str) -> None:
        assert refusal_of(header) == reason

    @pytest.mark.parametrize(
        "token",
        [
            pytest.param(json.dumps(FIELDS), id="JSON itself"),
            pytest.param(encoded(json.dumps(FIELDS))[:-3], id="a length that cannot be"),
            pytest.param(encoded(json.dumps(FIELDS)) + "=A", id="padding in the middle"),
            pytest.param("A" + encoded(json.dumps(FIELDS)).replace("i", "*"), id="asterisks"),
            pytest.param(f"{encoded(json.dumps(FIELDS))} {SECRET}", id="two words"),
            pytest.param(encoded(json.dumps(FIELDS)).replace("e", "é"), id="not ASCII"),
            pytest.param("\ufffd" * 8, id="what was not UTF-8"),
            pytest.param("A", id="one character"),
        ],
    )
    def test_what_is_not_base64(self, token: str) -> None:
        reason = f"the token is not base64; expected {EXPECTED}"
        assert refusal_of(f"Bearer {token}") == reason

    @pytest.mark.parametrize("token", ["=", "===="])
    def test_padding_alone_is_empty(self, token: str) -> None:
        assert refusal_of(f"Bearer {token}") == NO_JSON

    @pytest.mark.parametrize(
        "question",
        [
            f"{{'authorization_token': '{SECRET}', 'cluster_id': '{CLUSTER}'}}",
            f"{{ 'authorization_token': '{SECRET}'}}",
            f" \n{{\n  'cluster_id': '{CLUSTER}'\n}}\n",
        ],
    )
    def test_single_quotes(self, question: str) -> None:
        assert refusal_of(f"Bearer {encoded(question)}") == SINGLE_QUOTES

    @pytest.mark.parametrize(
        ("question", "reason"),
        [
            ("{", NO_JSON),
            (SECRET, NO_JSON),
            (f'"{SECRET}', NO_JSON),
            (b"\xff\xfe\xfd" + SECRET.encode(), NO_JSON),
            (json.dumps(FIELDS).encode() + b"\xff", NO_JSON),
            (json.dumps(FIELDS).encode("utf-16"), NO_JSON),
            (json.dumps(FIELDS).encode("utf-16-le"), NO_JSON),
            (json.dumps(FIELDS).encode("utf-32"), NO_JSON),
            (json.dumps(FIELDS).encode("utf-8-sig"), NO_JSON),
            (json.dumps(FIELDS) * 2, NO_JSON),
            ("'", NO_JSON),
            ("1" * 5000, NO_JSON),
            ("[" * 8000, NO_JSON),
            ('{"a":' * 2000, NO_JSON),
            (json.dumps(SECRET), f"the token holds no JSON object; expected {EXPECTED}"),
            (json.dumps([FIELDS]), f"the token holds no JSON object; expected {EXPECTED}"),
            ("null", f"the token holds no JSON object; expected {EXPECTED}"),
            ("7", f"the token holds no JSON object; expected {EXPECTED}"),
        ],
    )
    def test_what_is_no_object(self, question: str | bytes, reason: str) -> None:
        assert refusal_of(f"Bearer {encoded(question)}") == reason

    def test_json_may_be_deep_as_long_as_it_is_json(self) -> None:
        deep = f'{{"a": {"[" * 100 + "]" * 100}, {json.dumps(FIELDS)[1:]}'
        assert parsed(deep).cluster == CLUSTER
        # How deep Python can read depends on its version: a header has room for some 6000.
        deeper = f'{{"a": {"[" * 5500 + "]" * 5500}, {json.dumps(FIELDS)[1:]}'
        try:
            cluster = parsed(deeper).cluster
        except MalformedTokenError as error:
            assert str(error) == NO_JSON
        else:
            assert cluster == CLUSTER

    @pytest.mark.parametrize("field", ["authorization_token", "cluster_id"])
    @pytest.mark.parametrize("value", ["", None, 7, 7.5, True, [SECRET], {"a": SECRET}, "\ud800"])
    def test_both_must_be_texts(self, field: str, value: object) -> None:
        question = json.dumps({**FIELDS, field: value})
        assert refusal_of(f"Bearer {encoded(question)}") == f"{NO_TEXTS}; expected {EXPECTED}"

    @pytest.mark.parametrize("field", ["authorization_token", "cluster_id"])
    def test_both_must_be_there(self, field: str) -> None:
        question = json.dumps({name: text for name, text in FIELDS.items() if name != field})
        assert refusal_of(f"Bearer {encoded(question)}") == f"{NO_TEXTS}; expected {EXPECTED}"
        renamed = question.replace("}", f', "{field.upper()}": "x"}}')
        assert refusal_of(f"Bearer {encoded(renamed)}") == f"{NO_TEXTS}; expected {EXPECTED}"

    @pytest.mark.parametrize(
        "other",
        ["cluster_id", "Cluster_ID", "CLUSTER_ID", "clu\u017fter_id", "authorization_to\u212aen"],
    )
    @pytest.mark.parametrize("escaped", [False, True])
    def test_nobody_can_read_another_cluster_from_it(self, other: str, escaped: bool) -> None:
        """The authorization server reads the JSON too: perhaps the other of two equal names."""
        name = json.dumps(other, ensure_ascii=escaped)
        for question in (
            f'{{{name}: "mine", {json.dumps(FIELDS)[1:]}',
            f'{json.dumps(FIELDS)[:-1]}, {name}: "mine"}}',
        ):
            assert refusal_of(f"Bearer {encoded(question)}") == TWICE

    def test_other_names_may_be_there(self) -> None:
        assert parsed(json.dumps({**FIELDS, "cluster": "x", "clusterid": "y"})).cluster == CLUSTER

    @pytest.mark.parametrize("size", [16 * 1024, 16 * 1024 + 1, 1 << 20])
    def test_the_length_is_bounded(self, size: int) -> None:
        question = json.dumps(FIELDS)
        token = encoded(question + " " * (size * 3 // 4 - len(question)))
        token = token.rstrip("=").ljust(size, "=")[:size]
        assert len(token) == size
        if size <= 16 * 1024:
            assert parse_composite(f"Bearer {token}").cluster == CLUSTER
        else:
            reason = f"the token is longer than 16384 characters (fixed): it has {size}"
            assert refusal_of(f"Bearer {token}") == reason

    @given(st.binary(max_size=60))
    def test_anything_else_is_refused(self, data: bytes) -> None:
        for header in (f"Bearer {encoded(data)}", f"Bearer {data.decode('utf-8', 'replace')}"):
            with pytest.raises(MalformedTokenError):
                parse_composite(header)
