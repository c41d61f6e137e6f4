"""A model of docs/protocol.md, "Upload", steps 5 to 9: slow, obvious, and without protobuf.

It shares no code with what it is compared to. Doubles are their 64 bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, TypeAlias

COUNTER, GAUGE, SUMMARY, UNTYPED, HISTOGRAM, GAUGE_HISTOGRAM = range(6)
FIELDS: Final = {
    COUNTER: "counter",
    GAUGE: "gauge",
    UNTYPED: "untyped",
    SUMMARY: "summary",
    HISTOGRAM: "histogram",
    GAUGE_HISTOGRAM: "histogram",
}
#: The bounds of buckets and the quantiles that are generated, and how Prometheus writes them.
NUMBERS: Final = {
    -1.0: "-1.0",
    0.0: "0.0",
    0.5: "0.5",
    1e6: "1e+06",
    1e10: "1e+10",
    float("inf"): "+Inf",
}
DAY: Final = 24 * 3600 * 1000
FIVE_MINUTES: Final = 5 * 60 * 1000

Pairs: TypeAlias = list[tuple[str | None, str | None]]
#: A label's name, `=`, `!=`, `=~` or `!~`, and a value.
Condition: TypeAlias = tuple[str, str, str]
#: What follows the family's name, the labels of its own, and the value.
Series: TypeAlias = tuple[str, dict[str, str], int]


@dataclass
class PlainMetric:
    """A metric; None is what is absent.

    Attributes:
        numbers: the number of each of the fields counter, gauge and untyped that is there.
        buckets: of a histogram: upper bounds and cumulative counts.
        quantiles: of a summary: quantiles and values.
        total, count: of the histogram and of the summary.
    """

    labels: Pairs
    stamp: int | None
    numbers: dict[str, int | None] = field(default_factory=dict)
    buckets: list[tuple[float, int]] | None = None
    quantiles: list[tuple[float, int]] | None = None
    total: int = 0
    count: int = 0


@dataclass
class PlainFamily:
    name: str | None
    kind: int | None
    metrics: list[PlainMetric]


@dataclass
class PlainRules:
    required: dict[str, str]
    whitelist: list[list[Condition]]
    labels: dict[str, str]
    elided: set[str]


@dataclass
class Outcome:
    """What should become of an upload; see `Converted` for the numbers."""

    series: list[tuple[tuple[tuple[str, str], ...], int]] = field(default_factory=list)
    received: int = 0
    dropped: int = 0
    duplicates: int = 0
    past: int = 0
    present: int = 0
    future: int = 0
    overwritten_future: int = 0
    newest_ms: int = 0


class RefusedError(Exception):
    """The whole upload should be refused."""


def convert(families: list[PlainFamily], rules: PlainRules, now: int) -> Outcome:
    outcome = Outcome()
    usable = [f for f in families if f.name and f.kind is not None and f.metrics]
    for family in usable:  # step 5
        refuse_bad(family, rules.required, now)
    for family in usable:
        for metric in family.metrics:
            outcome.received += 1
            count_tense(outcome, metric, now)  # step 6
            passed = passing(family, metric, rules)  # step 7
            if not passed:
                outcome.dropped += 1
            for labels, value in passed:
                final = dict(labels)
                final.update(rules.labels)  # step 8
                final = {name: text for name, text in final.items() if name not in rules.elided}
                pairs = tuple(  # step 9
                    sorted(
                        ((name, text) for name, text in final.items() if name and text),
                        key=lambda pair: pair[0].encode(),
                    )
                )
                if any(pairs == other for other, _ in outcome.series):
                    outcome.duplicates += 1
                else:
                    outcome.series.append((pairs, value))
    return outcome


def refuse_bad(family: PlainFamily, required: dict[str, str], now: int) -> None:
    assert family.name is not None
    assert family.kind is not None
    if len(family.name.encode()) > 255:
        raise RefusedError("long metric name")
    if family.kind not in FIELDS:
        raise RefusedError("unknown type")
    stamps = []
    for metric in family.metrics:
        for name, value in metric.labels:
            if name == "__name__":
                raise RefusedError("a label named __name__")
            if len((name or "").encode()) > 255 or len((value or "").encode()) > 255:
                raise RefusedError("long label")
        labels = real_labels(metric)
        for name, value in required.items():
            if labels.get(name) != value:
                raise RefusedError("required label")
        if metric.stamp is None:
            raise RefusedError("no timestamp")
        if now - metric.stamp > DAY:
            raise RefusedError("old timestamp")
        stamps.append(metric.stamp)
        if fields_of(metric) != {FIELDS[family.kind]}:
            raise RefusedError("value of another type")
        if None in metric.numbers.values():
            raise RefusedError("no number")
    if stamps != sorted(stamps):
        raise RefusedError("decreasing timestamps")


def real_labels(metric: PlainMetric) -> dict[str, str]:
    """Without those that are empty, and of each name the first."""
    labels: dict[str, str] = {}
    for name, value in metric.labels:
        if name and value and name not in labels:
            labels[name] = value
    return labels


def fields_of(metric: PlainMetric) -> set[str]:
    fields = set(metric.numbers)
    if metric.buckets is not None:
        fields.add("histogram")
    if metric.quantiles is not None:
        fields.add("summary")
    return fields


def count_tense(outcome: Outcome, metric: PlainMetric, now: int) -> None:
    assert metric.stamp is not None
    outcome.newest_ms = max(outcome.newest_ms, metric.stamp)
    if abs(metric.stamp - now) <= FIVE_MINUTES:
        outcome.present += 1
    elif metric.stamp < now:
        outcome.past += 1
    else:
        outcome.future += 1
    if metric.stamp > now:
        outcome.overwritten_future += 1


def passing(
    family: PlainFamily, metric: PlainMetric, rules: PlainRules
) -> list[tuple[dict[str, str], int]]:
    """The series of a metric that a rule allows, by their own labels or by the family's name."""
    assert family.name is not None
    common = real_labels(metric)
    whole = allowed({**common, "__name__": family.name}, rules.whitelist)
    found = []
    for suffix, own, value in series_of(family, metric):
        labels = {**common, **own, "__name__": family.name + suffix}
        if whole or allowed(labels, rules.whitelist):
            found.append((labels, value))
    return found


def series_of(family: PlainFamily, metric: PlainMetric) -> list[Series]:
    assert family.kind is not None
    if family.kind in (COUNTER, GAUGE, UNTYPED):
        number = metric.numbers[FIELDS[family.kind]]
        assert number is not None
        return [("", {}, number)]
    rest: list[Series] = [
        ("_sum", {}, metric.total),
        ("_count", {}, whole_number(metric.count)),
    ]
    if family.kind == SUMMARY:
        assert metric.quantiles is not None
        quantiles: list[Series] = [
            ("", {"quantile": NUMBERS[at]}, value) for at, value in metric.quantiles
        ]
        return quantiles + rest
    assert metric.buckets is not None
    bounds = list(metric.buckets)
    if all(bound != float("inf") for bound, _ in bounds):
        bounds.append((float("inf"), metric.count))
    buckets: list[Series] = [
        ("_bucket", {"le": NUMBERS[at]}, whole_number(held)) for at, held in bounds
    ]
    return buckets + rest


def whole_number(number: int) -> int:
    """The bits of a double that holds a small whole number."""
    if number == 0:
        return 0
    exponent = number.bit_length() - 1
    return (1023 + exponent) << 52 | (number << (52 - exponent)) & (1 << 52) - 1


def allowed(labels: dict[str, str], whitelist: list[list[Condition]]) -> bool:
    if not whitelist:
        return True
    return any(all(holds(condition, labels) for condition in rule) for rule in whitelist)


def holds(condition: Condition, labels: dict[str, str]) -> bool:
    name, operator, wanted = condition
    value = labels.get(name, "")
    if operator == "=":
        return value == wanted
    if operator == "!=":
        return value != wanted
    matched = re.fullmatch(wanted, value, re.DOTALL) is not None
    return matched if operator == "=~" else not matched
