from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.samples.escaping import (
    Escaping,
    escape_families,
    escape_label,
    escape_name,
    is_plain_label,
    is_plain_name,
)
from telemeter.samples.family import Family, Metric
from telemeter.samples.proto import metrics_pb2


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


def labelled(*given: tuple[str, str], value: float = 1) -> Metric:
    metric = Metric(untyped=metrics_pb2.Untyped(value=value))
    for name, text in given:
        metric.label.add(name=name, value=text)
    return metric


def family_of(
    name: str, *found: Metric, kind: int = metrics_pb2.UNTYPED, help_: str = ""
) -> Family:
    return Family(name=name, type=kind, help=help_, metric=found)  # type: ignore[arg-type]


class TestFamilies:
    def test_plain_ones_are_what_they_were(self) -> None:
        twice = labelled(("a", "b"))
        families = [family_of("up", twice, twice), family_of("up", twice, kind=metrics_pb2.GAUGE)]
        assert escape_families(families, Escaping.UNDERSCORES) == families

    def test_nothing_changes_for_a_reader_that_takes_all(self) -> None:
        families = [family_of("a.b", labelled(("l.x", "1"))), family_of("a_b", labelled())]
        assert escape_families(families, Escaping.NONE) == families

    def test_one_of_several_that_become_the_same(self) -> None:
        families = [
            family_of("a.b", labelled(value=1), labelled(("x", "1"), value=2)),
            family_of("a-b", labelled(("x", "1"), value=3), labelled(("x", "2"), value=4)),
            family_of("a_b", labelled(value=5), help_="its own"),
            family_of("c", labelled(("l.x", "1"), value=6), labelled(("l_x", "1"), value=7)),
        ]
        assert escape_families(families, Escaping.UNDERSCORES) == [
            family_of(
                "a_b",
                labelled(value=5),
                labelled(("x", "1"), value=2),
                labelled(("x", "2"), value=4),
                help_="its own",
            ),
            family_of("c", labelled(("l_x", "1"), value=7)),
        ]
        assert families[0].name == "a.b"
        assert [family.name for family in escape_families(families, Escaping.VALUES)] == [
            "a_b",
            "c",
            "U__a_2e_b",
            "U__a_2d_b",
        ]

    def test_what_cannot_be_shown(self) -> None:
        two = labelled(("l.x", "1"), ("l_x", "2"))
        name = labelled((".-name..", "x"))
        families = [
            family_of("a.b", two, name, labelled(("é", "ü"))),
            family_of("a-b", labelled(), kind=metrics_pb2.GAUGE),
        ]
        assert escape_families(families, Escaping.UNDERSCORES) == [
            family_of("a_b", labelled(("_", "ü")))
        ]
