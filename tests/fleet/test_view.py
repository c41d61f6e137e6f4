"""Which clusters are shown, in what order, and why series were dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.fleet.explain import MAX_RULES, explain
from telemeter.fleet.history import Dropped
from telemeter.fleet.totals import State
from telemeter.fleet.view import SLICE, SORTS, Query, View
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from tests.fakes import moment_at
from tests.fleet.test_record import START, attempt, record_of


def ids(view: View, begin: int, end: int) -> list[str]:
    for _ in view.prepare(end):
        pass
    return [view._record.ids[slot].decode() for slot in view.slots(begin, end)]


@given(
    st.lists(
        st.tuples(st.integers(0, 9999), st.integers(0, 99)), max_size=30, unique_by=lambda p: p[0]
    ),
    st.sampled_from(["id", "kept", "seen"]),
    st.booleans(),
    st.integers(0, 30),
)
def test_pages_are_pieces_of_one_order(
    clusters: list[tuple[int, int]], sort: str, is_descending: bool, cut: int
) -> None:
    record = record_of(
        *(attempt(f"c{number:04}", at, kept=kept) for at, (number, kept) in enumerate(clusters))
    )
    view = View(record, Query(sort, is_descending), NOW)
    both = ids(view, 0, cut) + ids(view, cut, 1000)
    key: Any = {
        "id": lambda pair: pair[0],
        "kept": lambda pair: pair[1],
        "seen": clusters.index,
    }[sort]
    assert both == [
        f"c{number:04}" for number, _ in sorted(clusters, key=key, reverse=is_descending)
    ]
    assert view.total == len(clusters)


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_of_more_than_a_slice(sort: str) -> None:
    count = 2 * SLICE + 7
    record = record_of(*(attempt(f"c{at % 97}-{at}", at / 100) for at in range(count)), size=count)
    found = ids(View(record, Query(sort), NOW), 0, count)
    assert len(set(found)) == count


def test_filters() -> None:
    record = record_of(
        attempt("Alpha"), attempt("beta", status=400), attempt("ALPHABET", status=502)
    )
    assert sorted(ids(View(record, Query(contains="alpha"), NOW), 0, 9)) == ["ALPHABET", "Alpha"]
    states = frozenset({State.REFUSED, State.FAILED})
    assert ids(View(record, Query(states=states), NOW), 0, 9) == ["beta", "ALPHABET"]
    assert ids(View(record, Query(contains="l", states=states), NOW), 0, 9) == ["ALPHABET"]
    assert ids(View(record, Query(contains="\ud800"), NOW), 0, 9) == []


NOW = moment_at(START).elapsed
RULES = Whitelist(
    parse_selector(rule)
    for rule in ('up{job="a",instance=~"x.*"}', '{__name__=~"node_.+",job!="n"}')
)


def test_a_rule_about_the_metric_says_what_did_not_hold() -> None:
    why = explain(Dropped({"__name__": "up", "job": "b"}, False), RULES)
    (near,) = why.rules
    assert near.rule.text == 'up{job="a",instance=~"x.*"}'
    assert [(repr(miss.matcher), miss.value) for miss in near.misses] == [
        ("job='a'", "b"),
        ("instance=~'x.*'", ""),
    ]
    assert not why.passes_now


def test_no_rule_is_about_it() -> None:
    why = explain(Dropped({"__name__": 'od"d\n', "job": "n"}, False), RULES)
    assert why.rules == ()
    assert parse_selector(why.would_match).matches({"__name__": 'od"d\n'})


def test_labels_that_were_not_kept_are_not_known() -> None:
    (near,) = explain(Dropped({"__name__": "up", "job": "a"}, True), RULES).rules
    assert [(miss.matcher.name, miss.value) for miss in near.misses] == [("instance", None)]


def test_rules_have_changed() -> None:
    series = Dropped({"__name__": "up", "job": "b"}, False)
    assert explain(series, Whitelist([parse_selector("up")])).passes_now
    assert explain(series, Whitelist()).passes_now


def test_no_more_rules_than_can_be_read() -> None:
    rules = Whitelist(parse_selector(f'up{{job="{number}"}}') for number in range(50))
    assert len(explain(Dropped({"__name__": "up"}, False), rules).rules) == MAX_RULES
