"""Sifting with the compiled code and with its reference, which must agree."""

from __future__ import annotations

from telemeter.convert import write
from telemeter.convert.engine import WriteConverter
from telemeter.convert.results import Written
from telemeter.convert.sieve import WriteRules
from telemeter.samples.errors import BadInputError


def compiled_and_reference(
    body: bytes, rules: WriteRules, version: int
) -> tuple[Written | None, Written | None]:
    """What both make of a request; None: the compiled one gave up, the reference one refused."""
    sifter = WriteConverter(rules)
    compiled = sifter.compiled(body, version, rules.cluster)
    try:
        return compiled, sifter.reference(body, version, rules.cluster)
    except BadInputError:
        return compiled, None


def sift_write(body: bytes, rules: WriteRules) -> Written:
    """The reference for 1.0, after a look at what the compiled code says."""
    compiled, reference = compiled_and_reference(body, rules, 1)
    assert compiled is None or compiled == reference
    return write.sift_write(body, rules)


def sift_write_v2(body: bytes, rules: WriteRules, *, keep_version: bool = False) -> Written:
    """The same for 2.0."""
    compiled, reference = compiled_and_reference(body, rules, 2)
    assert compiled is None or compiled == reference
    return write.sift_write_v2(body, rules, keep_version=keep_version)
