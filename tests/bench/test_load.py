"""What wrk says becomes figures, or a failure that says why."""

from __future__ import annotations

import pytest

from bench.load import Load, http_post, parse_output
from demo.stack import StackError

FIGURES = "measured 120 1.500000 3.250 9.000"


def test_whole_requests_make_figures() -> None:
    output = f"Running 41s test\ndrained\n  1 threads\n{FIGURES} 0 0 \n"
    assert parse_output(output) == Load(120, 1.5, 3.25, 9.0)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("unable to connect\n", "no result:\nunable to connect"),
        (f"drained\n{FIGURES} 0 7 413 too large, really\n", "7 of 120 .* 413 too large, really$"),
        (f"drained\n{FIGURES} 2 0 \n", "2 connections"),
        (f"{FIGURES} 0 0 \n", "no answer after"),
    ],
)
def test_anything_else_is_a_failure(output: str, reason: str) -> None:
    with pytest.raises(StackError, match=reason):
        parse_output(output)


def test_a_request_is_as_http_has_it() -> None:
    request = http_post("http://127.0.0.1:80", "/upload", {"A": "b"}, b"\x00body")
    assert request == (
        b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1:80\r\nA: b\r\nContent-Length: 5\r\n\r\n\x00body"
    )
