"""Sifting with the compiled code and with its reference, which must agree."""

from __future__ import annotations

from telemeter.convert import write
from telemeter.convert.engine import Sifter
from telemeter.convert.write import WriteRules, Written
from telemeter.samples.errors import BadInputError


def quick_and_slow(
    body: bytes, rules: WriteRules, version: int
) -> tuple[Written | None, Written | None]:
    """What both make of a request; None: the quick one gave up, the slow one refused."""
    sifter = Sifter(rules)
    quick = sifter.quick(body, version, rules.cluster)
    try:
        return quick, sifter.sift(body, version, rules.cluster)
    except BadInputError:
        return quick, None


def sift_write(body: bytes, rules: WriteRules) -> Written:
    """The reference for 1.0, after a look at what the compiled code says."""
    quick, slow = quick_and_slow(body, rules, 1)
    assert quick is None or quick == slow
    return write.sift_write(body, rules)


def sift_write_v2(body: bytes, rules: WriteRules, *, keep_version: bool = False) -> Written:
    """The same for 2.0."""
    quick, slow = quick_and_slow(body, rules, 2)
    assert quick is None or quick == slow
    return write.sift_write_v2(body, rules, keep_version=keep_version)
