from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.samples.selector import Selector, parse_selector
from telemeter.samples.whitelist import Whitelist

NAMES = ["up", "down", "sum:up", ""]
VALUES = ["", "a", "b"]


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    conditions = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["__name__", "job", "le"]),
                st.sampled_from(["=", "=", "!=", "=~", "!~"]),
                st.sampled_from([*NAMES, *VALUES, "u.*|a", ".+"]),
            ),
            max_size=3,
        )
    )
    return parse_selector(
        "{" + ",".join(f'{name}{operator}"{value}"' for name, operator, value in conditions) + "}"
    )


labels = st.fixed_dictionaries(
    {},
    optional={
        "__name__": st.sampled_from(NAMES),
        "job": st.sampled_from(VALUES),
        "le": st.sampled_from(VALUES),
    },
)


@given(st.lists(selectors(), min_size=1, max_size=6), st.lists(labels, min_size=1, max_size=10))
def test_the_index_says_what_trying_every_rule_says(
    rules: list[Selector], series: list[dict[str, str]]
) -> None:
    whitelist = Whitelist(rules)
    assert len(whitelist.selectors) == len(rules)
    assert whitelist
    for one in series:
        assert whitelist.allows(one) is any(rule.matches(one) for rule in rules)


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (["up"], ["up"]),
        (["up", "down"], ["up", "down"]),
        (['up{job="a"}', "up"], ["up"]),
        (["up", '{__name__=~"s.*"}'], ["up", "sum:up"]),
        (['{job="a"}', "up"], ["up"]),
        (['{job!="a"}'], ["up", "down", "sum:up"]),
        (['{__name__="up",__name__="down"}'], []),
        (["{}"], ["up", "down", "sum:up"]),
    ],
)
def test_one_rule_that_matches_is_enough(rules: list[str], allowed: list[str]) -> None:
    whitelist = Whitelist(parse_selector(rule) for rule in rules)
    names = ["up", "down", "sum:up"]
    assert [name for name in names if whitelist.allows({"__name__": name})] == allowed


def test_without_rules_everything_passes() -> None:
    whitelist = Whitelist()
    assert not whitelist
    assert whitelist.allows({"__name__": "up"})
    assert whitelist.allows({})


def test_rules_are_tried_by_name() -> None:
    """A production whitelist has hundreds of rules, nearly all of one name each."""
    tried = []

    class Spy(Selector):
        def matches(self, labels: object) -> bool:
            tried.append(self.text)
            return False

    rules = [parse_selector(f'm{number}{{job="a"}}') for number in range(600)]
    rules.append(parse_selector('{job=~"a.*"}'))
    whitelist = Whitelist(Spy(rule.text, rule.matchers) for rule in rules)
    assert not whitelist.allows({"__name__": "m7", "job": "a"})
    assert tried == ['m7{job="a"}', '{job=~"a.*"}']
