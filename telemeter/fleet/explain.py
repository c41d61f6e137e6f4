"""Explanations, in words, of why no rule of the whitelist allowed a series."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from telemeter.fleet.history import Dropped
from telemeter.samples.selector import NAME, Matcher, Selector
from telemeter.samples.whitelist import Whitelist

#: How many rules are shown for a series.
MAX_RULES: Final = 10


@dataclass(frozen=True, slots=True)
class Miss:
    """A condition that does not hold.

    Attributes:
        matcher: the condition.
        value: the label's value; empty: there is no such label; None: it is not known.
    """

    matcher: Matcher
    value: str | None


@dataclass(frozen=True, slots=True)
class Near:
    """A rule that is about the metric, and does not select the series.

    Attributes:
        rule: the rule.
        misses: which of its conditions do not hold.
    """

    rule: Selector
    misses: tuple[Miss, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """An explanation of why a series was dropped.

    Attributes:
        metric: the series' name.
        rules: the rules about that metric, at most `MAX_RULES`.
        would_match: a rule that would let the series pass.
        passes_now: whether the rules have changed, and let it pass.
    """

    metric: str
    rules: tuple[Near, ...]
    would_match: str
    passes_now: bool


def explain(series: Dropped, whitelist: Whitelist) -> Explanation:
    """Why a series is not allowed by a whitelist."""
    metric = series.labels.get(NAME, "")
    about: list[Near] = []
    for rule in whitelist.about(metric):
        if len(about) == MAX_RULES:
            break
        about.append(Near(rule, _misses(rule, series)))
    return Explanation(
        metric,
        tuple(about),
        "{" + f"{NAME}={json.dumps(metric, ensure_ascii=False)}" + "}",
        not series.is_cut and whitelist.allows(series.labels),
    )


def _misses(rule: Selector, series: Dropped) -> tuple[Miss, ...]:
    misses = []
    for matcher in rule.matchers:
        value = _value(series.labels, matcher.name, series.is_cut)
        if value is None or not matcher.matches(value):
            misses.append(Miss(matcher, value))
    return tuple(misses)


def _value(labels: Mapping[str, str], name: str, is_cut: bool) -> str | None:
    return labels.get(name, None if is_cut else "")
