"""The classic histogram that one with custom buckets is, worked out from its bytes.

By the text of https://prometheus.io/docs/specs/native_histograms/ and of the text format, without
any of the code that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import isnan
from typing import Final, TypeAlias

from telemeter.samples.wire import read_varint
from tests.convert.write_strategies import Exemplar, Histogram, Sample, fields

from .build import STALE_NAN, bits, double

CUSTOM: Final = -53
#: The suffix of the name, and the label `le`.
Place: TypeAlias = tuple[str, str | None]
Parts: TypeAlias = dict[Place, tuple[list[Sample], list[Exemplar]]]


def _unzigzag(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        number, at = read_varint(data, at, len(data))
        yield number


def schema_of(histogram: Histogram) -> int:
    return next((_unzigzag(each.value) for each in fields(histogram.head) if each.number == 4), 0)


def is_custom(histogram: Histogram) -> bool:
    return schema_of(histogram) == CUSTOM


def bound_text(bound: float) -> str:
    """A bound as Prometheus writes it: at least one decimal, an exponent from a million on."""
    if bound in (float("inf"), float("-inf")):
        return "+Inf" if bound > 0 else "-Inf"
    if bound == 0:
        return "0.0"
    sign, found, _ = Decimal(repr(bound)).as_tuple()
    exponent = Decimal(repr(bound)).adjusted()
    digits = "".join(map(str, found)).lstrip("0").rstrip("0")
    minus = "-" if sign else ""
    if not -4 <= exponent < 6:
        rest = "." + digits[1:] if len(digits) > 1 else ""
        return f"{minus}{digits[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"
    if exponent < 0:
        return f"{minus}0.{'0' * (-exponent - 1)}{digits}"
    digits = digits.ljust(exponent + 1, "0")
    return f"{minus}{digits[: exponent + 1]}.{digits[exponent + 1 :] or '0'}"


def texts_of(histogram: Histogram) -> list[str]:
    return [*map(bound_text, histogram.custom), "+Inf"]


def points(histogram: Histogram) -> dict[Place, int]:
    """The numbers of the classic histogram, as bits, in the order in which they are written."""
    count: float = 0.0
    total = 0
    spans: list[tuple[int, int]] = []
    held: list[float] = []
    for field in fields(histogram.head):
        if field.number == 1:
            count = float(field.value)
        elif field.number == 2:
            count = double(field.value)
        elif field.number == 3:
            total = field.value
        elif field.number == 11:
            said = {each.number: each.value for each in fields(field.data)}
            spans.append((_unzigzag(said.get(1, 0)), said.get(2, 0)))
        elif field.number == 12:
            bucket = 0
            for delta in _varints(field.data):
                bucket += _unzigzag(delta)
                held.append(float(bucket))
        elif field.number == 13:
            chunks = [field.data[at : at + 8] for at in range(0, len(field.data), 8)]
            held = [double(int.from_bytes(each, "little")) for each in chunks]
    buckets = [0.0] * (len(histogram.custom) + 1)
    at = 0
    for offset, length in spans:
        at += offset
        for _ in range(length):
            buckets[at] = held.pop(0)
            at += 1
    assert not held
    found: dict[Place, int] = {}
    sofar = 0.0
    for text, held_there in zip(texts_of(histogram)[:-1], buckets, strict=False):
        sofar += held_there
        found["_bucket", text] = bits(sofar)
    found["_bucket", "+Inf"] = bits(count)
    found["_sum", None] = total
    found["_count", None] = bits(count)
    return dict.fromkeys(found, total) if total == bits(STALE_NAN) else found


def parts(
    histograms: list[Histogram], exemplars: tuple[Exemplar, ...], buckets: Histogram
) -> Parts:
    """The series of a classic histogram.

    Args:
        histograms: with custom buckets.
        exemplars: what belongs to them.
        buckets: the histogram of which the buckets tell where the exemplars go.
    """
    found: Parts = {}
    for histogram in histograms:
        for place, value in points(histogram).items():
            found.setdefault(place, ([], []))[0].append(Sample(value, histogram.at))
    texts = texts_of(buckets)
    for exemplar in exemplars:
        observed = double(exemplar.value)
        above = [at for at, bound in enumerate(buckets.custom) if observed <= bound]
        number = above[0] if above and not isnan(observed) else len(texts) - 1
        found.setdefault(("_bucket", texts[number]), ([], []))[1].append(exemplar)
    return found
