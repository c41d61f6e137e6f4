"""The Authorization header."""

from __future__ import annotations

import pytest

from telemeter.auth.bearer import NotAuthorizedError, parse_bearer


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer a", "a"),
        ("bearer a", "a"),
        ("BEARER a", "a"),
        ("Bearer  a ", "a"),
        ("Bearer a b", "a b"),
        ("Bearer a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
        ("Bearer Bearer", "Bearer"),
        ("Bearer \u00fc", "\u00fc"),
    ],
)
def test_the_token(header: str, token: str) -> None:
    assert parse_bearer(header) == token


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer \t ",
        " Bearer secret",
        "Basic secret",
        "Bearersecret",
        "Bearer\tsecret",
        "secret",
        "Bearer:secret",
        "Digest Bearer secret",
    ],
)
def test_no_token(header: str | None) -> None:
    with pytest.raises(NotAuthorizedError) as caught:
        parse_bearer(header)
    assert str(caught.value)
    assert "secret" not in str(caught.value)
