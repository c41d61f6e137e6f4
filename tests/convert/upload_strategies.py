"""Uploads as plain data: mostly good ones, and ones with something broken in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, TypeAlias

from hypothesis import strategies as st

from telemeter.convert.upload import UploadRules
from telemeter.samples.family import Family, encode_families
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from tests.samples.build import NOW, bits, double
from tests.samples.strategies import doubles

from .upload_model import (
    COUNTER,
    DAY,
    FIELDS,
    FIVE_MINUTES,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    NUMBERS,
    SUMMARY,
    UNTYPED,
    Condition,
    PlainFamily,
    PlainMetric,
    PlainRules,
)

Upload: TypeAlias = tuple[list[PlainFamily], PlainRules]

LONG, TOO_LONG = "x" * 255, "x" * 256
NAMES: Final = ["up", "up", "up_sum", "up_bucket", "down", LONG]
LABELS: Final = ["_id", "region", "job", "le", "quantile", "é", "\U0001f600", "\uffee", "a b", LONG]
VALUES: Final = ["a", "b", "ab", "test", "0.5", "+Inf", "\n", '"', "é", LONG]
REGEXES: Final = ["a|b", "a.*", ".*", ".+", "", "up.*", "[ab]+"]

_label_pairs = st.tuples(
    st.none() | st.sampled_from(["", *LABELS]), st.none() | st.sampled_from(["", *VALUES])
)
_some_labels = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(VALUES), max_size=2)
_ages = st.one_of(
    st.sampled_from([0, 1, -1, DAY, FIVE_MINUTES, FIVE_MINUTES + 1, -FIVE_MINUTES, -DAY]),
    st.sampled_from([-FIVE_MINUTES - 1]),
    st.integers(-DAY, DAY),
)


@st.composite
def _conditions(draw: st.DrawFn) -> Condition:
    name = draw(st.sampled_from(["__name__", "__name__", *LABELS[:5]]))
    operator = draw(st.sampled_from(["=", "=", "!=", "=~", "!~"]))
    if operator in ("=", "!="):
        return name, operator, draw(st.sampled_from([*NAMES, "up_count", *VALUES, ""]))
    return name, operator, draw(st.sampled_from(REGEXES))


@st.composite
def rules(draw: st.DrawFn) -> PlainRules:
    return PlainRules(
        required=draw(_some_labels),
        whitelist=draw(st.lists(st.lists(_conditions(), min_size=1, max_size=2), max_size=3)),
        labels=draw(
            st.dictionaries(st.sampled_from(LABELS), st.sampled_from(["", *VALUES]), max_size=2)
        ),
        elided=draw(st.sets(st.sampled_from(LABELS), max_size=3)),
    )


@st.composite
def _metrics(draw: st.DrawFn, kind: int, required: dict[str, str]) -> PlainMetric:
    free = draw(st.lists(_label_pairs, max_size=3))
    others = [pair for pair in free if pair[0] not in required or not pair[1]]
    labels = draw(st.permutations([*others, *required.items()]))
    # Of labels with one name the first counts, so these are not looked at.
    repeated = [(name, draw(st.sampled_from(VALUES))) for name, _ in labels if draw(_rarely)]
    metric = PlainMetric([*labels, *repeated], None)
    put_value(metric, FIELDS[kind], draw)
    return metric


_rarely = st.sampled_from([False] * 5 + [True])


def put_value(metric: PlainMetric, field: str, draw: st.DrawFn) -> None:
    """Give a metric a value, next to any that it has."""
    small = st.integers(0, 2**40)
    if field == "histogram":
        pairs = st.lists(st.tuples(st.sampled_from(list(NUMBERS)), small), max_size=3)
        metric.buckets = draw(pairs)
    elif field == "summary":
        values = st.tuples(st.sampled_from(list(NUMBERS)), doubles.map(bits))
        metric.quantiles = draw(st.lists(values, max_size=3))
    else:
        metric.numbers[field] = bits(draw(doubles))
        return
    metric.total, metric.count = bits(draw(doubles)), draw(small)


@st.composite
def uploads(draw: st.DrawFn, least: int = 0) -> Upload:
    """Uploads that are not refused, of at least so many families with metrics."""
    plain = draw(rules())
    families = []
    for _ in range(draw(st.integers(least, 4))):
        kind = draw(
            st.sampled_from([COUNTER, GAUGE, UNTYPED, UNTYPED, SUMMARY, HISTOGRAM, GAUGE_HISTOGRAM])
        )
        metrics = draw(st.lists(_metrics(kind, plain.required), min_size=least, max_size=4))
        ages = draw(st.lists(_ages, min_size=len(metrics), max_size=len(metrics)))
        for metric, age in zip(metrics, sorted(ages, reverse=True), strict=True):
            metric.stamp = NOW - age
        families.append(PlainFamily(draw(st.sampled_from(NAMES)), kind, metrics))
    unusable = [
        PlainFamily(None, UNTYPED, [PlainMetric([], None)]),
        PlainFamily("", UNTYPED, [PlainMetric([], None)]),
        PlainFamily("up", None, [PlainMetric([], None)]),
        PlainFamily("up", 77, []),
        PlainFamily(TOO_LONG, UNTYPED, []),
    ]
    if draw(_rarely):
        families.insert(draw(st.integers(0, len(families))), draw(st.sampled_from(unusable)))
    return families, plain


Breakage: TypeAlias = Callable[[PlainFamily, PlainMetric, st.DrawFn], None]


def _rename(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    family.name = draw(st.sampled_from([TOO_LONG, "é" * 128, "", None]))


def _retype(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    family.kind = draw(st.sampled_from([None, 0, 1, 2, 3, 4, 5, 6, 77, -1]))


def _relabel(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    names = ["__name__", TOO_LONG, "", None, *LABELS]
    values = [TOO_LONG, "é" * 128, "", None, *VALUES]
    pair = (draw(st.sampled_from(names)), draw(st.sampled_from(values)))
    metric.labels.insert(draw(st.integers(0, len(metric.labels))), pair)


def _unlabel(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    if metric.labels:
        del metric.labels[draw(st.integers(0, len(metric.labels) - 1))]


def _retime(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    metric.stamp = draw(st.sampled_from([None, 0, -1, NOW - DAY - 1, NOW - DAY, NOW, NOW + DAY]))


def _another_value(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    put_value(metric, draw(st.sampled_from(sorted(FIELDS.values()))), draw)


def _no_value(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    metric.buckets = metric.quantiles = None
    metric.numbers.clear()


def _no_number(family: PlainFamily, metric: PlainMetric, draw: st.DrawFn) -> None:
    for name in metric.numbers:
        metric.numbers[name] = None


BREAKAGES: Final[list[Breakage]] = [
    *(_relabel, _retime, _unlabel, _another_value, _retype, _no_value, _no_number, _rename)
]


@st.composite
def broken_uploads(draw: st.DrawFn) -> Upload:
    """Uploads of which one metric or its family was changed, in most cases for the worse."""
    families, plain = draw(uploads(least=1))
    family = draw(st.sampled_from([family for family in families if family.metrics]))
    metric = draw(st.sampled_from(family.metrics))
    draw(st.sampled_from(BREAKAGES))(family, metric, draw)
    return families, plain


def encode(families: list[PlainFamily]) -> bytes:
    """The body of an upload."""
    return encode_families(_message(family) for family in families)


def _message(family: PlainFamily) -> Family:
    message = Family()
    if family.name is not None:
        message.name = family.name
    if family.kind is not None:
        message.type = family.kind  # type: ignore[assignment]
    for plain in family.metrics:
        metric = message.metric.add()
        for name, value in plain.labels:
            metric.label.add(name=name, value=value)
        if plain.stamp is not None:
            metric.timestamp_ms = plain.stamp
        for field, number in plain.numbers.items():
            holder = getattr(metric, field)
            holder.SetInParent()
            if number is not None:
                holder.value = double(number)
        if plain.buckets is not None:
            metric.histogram.sample_sum = double(plain.total)
            metric.histogram.sample_count = plain.count
            for bound, held in plain.buckets:
                metric.histogram.bucket.add(upper_bound=bound, cumulative_count=held)
        if plain.quantiles is not None:
            metric.summary.sample_sum = double(plain.total)
            metric.summary.sample_count = plain.count
            for quantile, number in plain.quantiles:
                metric.summary.quantile.add(quantile=quantile, value=double(number))
    return message


def upload_rules(plain: PlainRules) -> UploadRules:
    """The same rules as the code takes them."""
    selectors = [
        parse_selector("{" + ",".join(map(_written, rule)) + "}") for rule in plain.whitelist
    ]
    return UploadRules(Whitelist(selectors), plain.labels, frozenset(plain.elided))


def _written(condition: Condition) -> str:
    name, operator, value = condition
    return f"{name}{operator}{json.dumps(value, ensure_ascii=False)}"
