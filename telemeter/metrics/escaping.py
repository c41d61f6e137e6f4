"""Names in characters that the text format has not, for readers that take only those it has.

Source: https://prometheus.io/docs/instrumenting/escaping_schemes/. Names that the text format has
are never changed.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_FIRST_OF_METRIC: Final = re.compile(r"[a-zA-Z_:]")
_FIRST_OF_LABEL: Final = re.compile(r"[a-zA-Z_]")


class Escaping(Enum):
    """What is done with such names; the values are those of the parameter in a media type."""

    NONE = "allow-utf-8"
    UNDERSCORES = "underscores"
    DOTS = "dots"
    VALUES = "values"


def is_plain_name(name: str) -> bool:
    """Whether a metric name is one of the text format."""
    return _METRIC_NAME.fullmatch(name) is not None


def is_plain_label(name: str) -> bool:
    """Whether a label name is one of the text format."""
    return _LABEL_NAME.fullmatch(name) is not None


def escape_name(name: str, escaping: Escaping) -> str:
    """A metric name as it is shown."""
    if escaping is Escaping.NONE or is_plain_name(name):
        return name
    return _escape(name, escaping, _FIRST_OF_METRIC)


def escape_label(name: str, escaping: Escaping) -> str:
    """A label name as it is shown."""
    if escaping is Escaping.NONE or is_plain_label(name):
        return name
    return _escape(name, escaping, _FIRST_OF_LABEL)


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
