from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.metrics.escaping import (
    Escaping,
    escape_label,
    escape_name,
    is_plain_label,
    is_plain_name,
)


@pytest.mark.parametrize(
    ("name", "underscores", "dots", "values"),
    [
        ("up", "up", "up", "up"),
        ("http_requests_total:rate", *["http_requests_total:rate"] * 3),
        (
            "http.status_code",
            "http_status_code",
            "http_dot_status__code",
            "U__http_2e_status__code",
        ),
        ("label with 😱", "label_with__", "label__with____", "U__label_20_with_20__1f631_"),
        ("1up", "_up", "__up", "U___31_up"),
        ("é1", "_1", "__1", "U___e9_1"),
        ("..", "__", "_dot__dot_", "U___2e__2e_"),
        ("a:b.c", "a:b_c", "a:b_dot_c", "U__a:b_2e_c"),
    ],
)
def test_a_name(name: str, underscores: str, dots: str, values: str) -> None:
    assert escape_name(name, Escaping.NONE) == name
    assert escape_name(name, Escaping.UNDERSCORES) == underscores
    assert escape_name(name, Escaping.DOTS) == dots
    assert escape_name(name, Escaping.VALUES) == values


def test_a_label_has_no_colon() -> None:
    assert escape_label("a:b_c", Escaping.UNDERSCORES) == "a_b_c"
    assert escape_label("a:b_c", Escaping.DOTS) == "a__b__c"
    assert escape_label("a:b_c", Escaping.VALUES) == "U__a_3a_b__c"
    assert escape_label("a:b_c", Escaping.NONE) == "a:b_c"
    assert escape_label("a_b", Escaping.VALUES) == "a_b"


def read_back(escaped: str) -> str:
    """The name that was escaped with its values."""
    return re.sub(
        "__|_([0-9a-f]+)_",
        lambda found: chr(int(found[1], 16)) if found[1] else "_",
        escaped.removeprefix("U__"),
    )


@given(st.text(min_size=1))
def test_any_name(name: str) -> None:
    for escaping in (Escaping.UNDERSCORES, Escaping.DOTS, Escaping.VALUES):
        assert is_plain_name(escape_name(name, escaping))
        assert is_plain_label(escape_label(name, escaping))
    assert len(escape_name(name, Escaping.UNDERSCORES)) == len(name)
    if not is_plain_name(name):
        assert read_back(escape_name(name, Escaping.VALUES)) == name
    if not is_plain_label(name):
        assert read_back(escape_label(name, Escaping.VALUES)) == name
