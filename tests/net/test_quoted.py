"""Answers in log lines: short, and without what was sent to show who we are."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, cast

import pytest
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from telemeter.net.quoted import quote_answer

TOKEN = "eyJhbGciOi.a-token-that-is-secret.c2lnbmF0dXJl"


@dataclass
class Request:
    headers: Headers


@dataclass
class Response:
    request: Request | None


def quoted(body: bytes, **headers: str) -> str:
    sent = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
    return quote_answer(cast(Any, Response(Request(sent))), body)


def test_an_answer_is_quoted() -> None:
    assert quoted(b" no such\ntenant \xff\n") == "no such\ntenant \ufffd"
    assert quoted(b"x" * 1000) == "x" * 500


def test_an_answer_to_nobody_knows_what() -> None:
    for response in (Response(None), object()):
        assert quote_answer(cast(IResponse, response), b"no") == "no"


def test_a_token_is_left_out() -> None:
    assert quoted(f"not {TOKEN}, {TOKEN}!".encode(), Authorization=f"Bearer {TOKEN}") == (
        "not ..., ...!"
    )


@pytest.mark.parametrize("length", [4, 20, len(TOKEN) - 1])
def test_a_token_that_was_cut_off_is_left_out(length: int) -> None:
    answer = f"not {TOKEN[:length]}".encode()
    assert quoted(answer, Authorization=f"Bearer {TOKEN}") == "not ..."


def test_a_token_is_left_out_before_the_text_is_cut() -> None:
    answer = f"{'x' * 490}{TOKEN}".encode()
    assert quoted(answer, Authorization=f"Bearer {TOKEN}") == f"{'x' * 490}..."


def test_user_and_password_are_left_out() -> None:
    basic = base64.b64encode(b"user:pass:word").decode()
    other = base64.b64encode(b"user:proxy-word").decode()
    answer = f"{basic} {other} user pass:word proxy-word".encode()
    headers = {"Authorization": f"Basic {basic}", "Proxy_Authorization": f"basic {other}"}
    assert quoted(answer, **headers) == "... ... user ... ..."


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic", "Basic %", "Basic /w==", "a"])
def test_a_header_without_a_secret_takes_nothing_away(value: str) -> None:
    assert quoted(b"Bearer or Basic", Authorization=value) == "Bearer or Basic"
