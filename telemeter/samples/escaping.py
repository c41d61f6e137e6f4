"""Names in characters that the text format has not, for readers that take only those it has.

Source: https://prometheus.io/docs/instrumenting/escaping_schemes/. Names that the text format has
are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final, TypeAlias

from telemeter.samples.family import Family, Metric
from telemeter.samples.selector import NAME

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_FIRST_OF_METRIC: Final = re.compile(r"[a-zA-Z_:]")
_FIRST_OF_LABEL: Final = re.compile(r"[a-zA-Z_]")

#: The names and values of labels, sorted.
Pairs: TypeAlias = tuple[tuple[str, str], ...]


class Escaping(Enum):
    """A treatment of such names, by its name in the parameter of a media type."""

    NONE = "allow-utf-8"
    UNDERSCORES = "underscores"
    DOTS = "dots"
    VALUES = "values"


def is_plain_name(name: str) -> bool:
    """Return whether a metric name is one of the text format."""
    return _METRIC_NAME.fullmatch(name) is not None


def is_plain_label(name: str) -> bool:
    """Return whether a label name is one of the text format."""
    return _LABEL_NAME.fullmatch(name) is not None


def escape_name(name: str, escaping: Escaping) -> str:
    """Return a metric name as it is shown."""
    if escaping is Escaping.NONE or is_plain_name(name):
        return name
    return _escape(name, escaping, _FIRST_OF_METRIC)


def escape_label(name: str, escaping: Escaping) -> str:
    """Return a label name as it is shown."""
    if escaping is Escaping.NONE or is_plain_label(name):
        return name
    return _escape(name, escaping, _FIRST_OF_LABEL)


def escape_families(families: Sequence[Family], escaping: Escaping) -> list[Family]:
    """Families as they are shown.

    Those whose names become one are one family. Of series that become one, one is left: that whose
    names did not change, or else the first. What would have two labels of one name is left out, and
    so is a family that gets the name of another of another type.
    """
    names = {pair.name for family in families for metric in family.metric for pair in metric.label}
    changed = {name for name in names if escape_label(name, escaping) != name}
    shown: list[Family] = []
    by_name: dict[str, Family] = {}
    seen: set[tuple[str, Pairs]] = set()
    escaped: list[tuple[Family, Metric]] = []
    for family in sorted(families, key=lambda each: escape_name(each.name, escaping) != each.name):
        name = escape_name(family.name, escaping)
        target = None if name == family.name else by_name.get(name)
        if target is None:
            target = Family(name=name, type=family.type)
            if family.HasField("help"):
                target.help = family.help
            by_name.setdefault(name, target)
            shown.append(target)
        elif target.type != family.type:
            continue
        for metric in family.metric:
            if name == family.name and not any(pair.name in changed for pair in metric.label):
                target.metric.append(metric)
                seen.add((name, _pairs(metric)))
            else:
                escaped.append((target, _escaped(metric, escaping)))
    for target, metric in escaped:
        labels = _pairs(metric)
        is_valid = len({NAME, *dict(labels)}) > len(labels)
        if is_valid and (target.name, labels) not in seen:
            seen.add((target.name, labels))
            target.metric.append(metric)
    return [family for family in shown if family.metric]


def _escaped(metric: Metric, escaping: Escaping) -> Metric:
    copy = Metric()
    copy.CopyFrom(metric)
    for pair in copy.label:
        pair.name = escape_label(pair.name, escaping)
    return copy


def _pairs(metric: Metric) -> Pairs:
    return tuple(sorted((pair.name, pair.value) for pair in metric.label))


def _escape(name: str, escaping: Escaping, first: re.Pattern[str]) -> str:
    shown = ["U__"] if escaping is Escaping.VALUES else []
    for at, character in enumerate(name):
        is_digit = "0" <= character <= "9"
        is_plain = (is_digit and at > 0) or first.match(character) is not None
        if escaping is Escaping.UNDERSCORES:
            shown.append(character if is_plain else "_")
        elif character == "_":
            shown.append("__")
        elif is_plain:
            shown.append(character)
        elif escaping is Escaping.VALUES:
            shown.append(f"_{ord(character):x}_")
        else:
            shown.append("_dot_" if character == "." else "__")
    return "".join(shown)
