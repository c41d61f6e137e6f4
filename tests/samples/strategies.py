"""What the tests generate: hostile texts, doubles of every bit pattern, families, broken bytes."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from telemeter.samples.family import Family, Metric
from telemeter.samples.proto.metrics_pb2 import COUNTER, GAUGE, UNTYPED

from .build import FIELDS, NORMAL_NAN, NOW, STALE_NAN, double, family, sample

_HOSTILE: Final = [
    *('"', "\\", "\n", "\\n", '\\"', "\\\\", "\r", "\t", " ", "\0", "{", "}", "#", ",", "=", "a"),
    *("b", "NaN", "é", "\u00a0", "\u0085", "\u2028", "\ufeff", "\ufdd0", "\U0001f600"),
]

#: Texts that protobuf can carry, with a taste for what formats treat specially.
texts: Final = st.one_of(
    st.lists(st.sampled_from(_HOSTILE), max_size=6).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
_LETTERS: Final = "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGITS: Final = "0123456789"


def _names(start: str) -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(start), st.text(start + _DIGITS, max_size=6))


metric_names: Final = _names(_LETTERS + ":")
label_names: Final = _names(_LETTERS)

#: Doubles, any of the 2 to the power of 64.
doubles: Final = st.one_of(
    st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), STALE_NAN, NORMAL_NAN, 5e-324]),
    st.floats(),
    st.integers(0, 2**64 - 1).map(double),
)
#: Doubles that a text can tell apart.
text_doubles: Final = doubles.map(lambda value: value if value == value else NORMAL_NAN)
scalar_kinds: Final = st.sampled_from([COUNTER, GAUGE, UNTYPED])
stamps: Final = st.one_of(
    st.integers(NOW - 1000, NOW + 1000), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, -1])
)


@st.composite
def text_families(draw: st.DrawFn) -> list[Family]:
    """Families of which the text format loses nothing."""
    names = draw(st.lists(metric_names, max_size=4, unique=True))
    found = []
    for name in names:
        kind = draw(scalar_kinds)
        made = family(name, kind=kind)
        # The format strips spaces around a help, and has no empty one.
        if text := draw(texts).strip():
            made.help = text
        for _ in range(draw(st.integers(1, 3))):
            made.metric.append(draw(_text_metrics(FIELDS[kind])))
        found.append(made)
    return found


@st.composite
def _text_metrics(draw: st.DrawFn, field: str) -> Metric:
    stamp = draw(st.none() | stamps)
    metric = sample(draw(text_doubles), at=stamp, field=field)
    for name in draw(st.lists(label_names, max_size=4)):
        metric.label.add(name=name, value=draw(texts))
    return metric


#: Names short and long, with one whose length takes two bytes.
_ALIKE_NAMES: Final = ["_id", "a", "b", "job", "instance", "n" * 127, "n" * 128]
_ALIKE_VALUES: Final = st.sampled_from(["x", "y", "", "v" * 127, "v" * 128, "é"])


@st.composite
def alike_labels(draw: st.DrawFn) -> list[list[tuple[str, str]]]:
    """Labels of series that mostly have the names of the series before, in the same places."""
    names = st.lists(st.sampled_from(_ALIKE_NAMES), max_size=5)
    layouts = draw(st.lists(names, min_size=1, max_size=3))
    return [
        [(name, draw(_ALIKE_VALUES)) for name in draw(st.sampled_from(layouts))]
        for _ in range(draw(st.integers(2, 8)))
    ]


@st.composite
def mutations(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes that were valid until somebody changed, cut out or put in a few of them."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.sampled_from([0, 0, 1, 1, 2, 9, len(valid)]))
        data[at : at + cut] = draw(st.binary(max_size=4))
    return bytes(data)
