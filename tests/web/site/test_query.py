"""Queries and forms."""

from __future__ import annotations

import pytest

from telemeter.web.site.query import parse_fields


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"", []),
        (b"a=1&b=&a=2", [("a", "1"), ("b", ""), ("a", "2")]),
        (b"a", [("a", "")]),
        (b"a=b+c%20d%3D", [("a", "b c d=")]),
        (b"a=%C3%A9", [("a", "é")]),
        ("a=é".encode(), [("a", "é")]),
    ],
)
def test_fields(data: bytes, fields: list[tuple[str, str]]) -> None:
    assert parse_fields(data) == fields
    assert parse_fields(data, errors="replace") == fields


@pytest.mark.parametrize("data", [b"a=%FF", b"a=\xff", b"%FF=a"])
def test_what_is_no_utf_8(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        parse_fields(data)
    ((name, value),) = parse_fields(data, errors="replace")
    assert "\N{REPLACEMENT CHARACTER}" in name + value
