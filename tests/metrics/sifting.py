"""Sifting with the compiled code and with its reference, which must agree."""

from __future__ import annotations

from telemeter.metrics import write
from telemeter.metrics.errors import BadInputError
from telemeter.metrics.transcoder import Sifter
from telemeter.metrics.write import WriteRules, Written


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
