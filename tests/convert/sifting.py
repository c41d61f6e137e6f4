"""Sifting with the compiled code and with its reference, which must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from telemeter.convert import write
from telemeter.convert.engine import WriteConverter
from telemeter.convert.results import Written
from telemeter.convert.sieve import WriteRules
from telemeter.samples.errors import BadInputError

#: What became of a request: the result, or the class and the words of its refusal.
Outcome: TypeAlias = Written | tuple[type[BadInputError], str]


def _outcome(sift: Callable[[], Written | None]) -> Outcome | None:
    try:
        return sift()
    except BadInputError as error:
        return type(error), str(error)


def both_outcomes(
    body: bytes, rules: WriteRules, version: int
) -> tuple[Outcome | None, Outcome | None]:
    """What the compiled code makes of a request (None: it gave up), and what the reference does."""
    sifter = WriteConverter(rules)
    return (
        _outcome(lambda: sifter.compiled(body, version, rules.cluster)),
        _outcome(lambda: sifter.reference(body, version, rules.cluster)),
    )


def compiled_and_reference(
    body: bytes, rules: WriteRules, version: int
) -> tuple[Written | None, Written | None]:
    """What both make of a request; None: the compiled one gave up, or it was refused.

    If the compiled one refuses it, then in the words of the reference.
    """
    compiled, reference = both_outcomes(body, rules, version)
    if isinstance(compiled, tuple):
        assert compiled == reference
    return (
        compiled if isinstance(compiled, Written) else None,
        reference if isinstance(reference, Written) else None,
    )


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
