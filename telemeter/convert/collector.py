"""Transforming what the agent collected: quickly where the compiled module can, or by the book."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from telemeter.convert.collect import Transforms, add_labels, anonymous
from telemeter.samples.family import (
    MAX_AGE_MS,
    Family,
    count_metrics,
    decode_families,
    encode_families,
    is_too_long,
)
from telemeter.samples.format import Decoder
from telemeter.samples.selector import NAME

try:
    from telemeter.convert import _collect as _compiled
except ImportError:  # there was no compiler when the package was installed
    _compiled = None  # type: ignore[assignment]

#: Which code transforms the usual collection: `compiled` or `python`.
KIND: Final = "python" if _compiled is None else "compiled"

#: From so many bytes on, work on a collection takes more than a few milliseconds.
LARGE: Final = 512 * 1024
_OLDEST_OF_ALL: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class Transformed:
    """What the transforms left of a collection, before the server's labels are added.

    Attributes:
        families: how many families are left.
        samples: how many samples they have.
        received: how many samples there were.
    """

    families: int
    samples: int
    received: int
    _left: bytes | list[Family]

    @property
    def is_large(self) -> bool:
        """Whether to work on it takes longer than to hand it to a thread."""
        return not isinstance(self._left, bytes) or len(self._left) > LARGE

    def labelled(self, labels: Mapping[str, str]) -> bytes:
        """Encode the families, each behind its length, with labels added to every sample."""
        if isinstance(self._left, bytes):
            plan = _make_plan(Transforms(labels))
            if plan is not None:
                result = _compiled.transform(self._left, plan, _OLDEST_OF_ALL)
                if result is not None:
                    return result[0]
        families = self.decoded()
        for family in families:
            add_labels(family, labels)
        return encode_families(families)

    def decoded(self) -> list[Family]:
        """The families."""
        return decode_families(self._left) if isinstance(self._left, bytes) else self._left


class Transformer:
    """Applies the same transforms to one collection after another."""

    def __init__(self, transforms: Transforms, *, compiled: bool = True) -> None:
        """Make a transformer.

        Args:
            transforms: what it applies.
            compiled: whether the compiled code may be used, where it is there.
        """
        self._transforms = transforms
        self._plan = _make_plan(transforms) if compiled else None

    def apply(self, body: bytes, decode: Decoder, now_ms: int) -> Transformed:
        """Transform a collection.

        Args:
            body: what was collected.
            decode: the decoder of its format.
            now_ms: the time, in milliseconds since the epoch.

        Raises:
            BadInputError: the body cannot be decoded.
        """
        if self._plan is not None and decode is not decode_families:
            # Even so the compiled code saves more than the encoding costs.
            body, decode = encode_families(decode(body)), decode_families
        return self.quick(body, decode, now_ms) or self.slow(body, decode, now_ms)

    def quick(self, body: bytes, decode: Decoder, now_ms: int) -> Transformed | None:
        """Transform a collection in the time that reading it takes, if it is a usual one.

        Returns:
            The same as `slow`; None if that has to look at the collection.
        """
        if self._plan is None or decode is not decode_families:
            return None
        result = _compiled.transform(body, self._plan, now_ms - MAX_AGE_MS)
        if result is None:
            return None
        left, families, samples, received = result
        return Transformed(families, samples, received, left)

    def slow(self, body: bytes, decode: Decoder, now_ms: int) -> Transformed:
        """Transform a collection straightforwardly; see `apply`."""
        families = decode(body)
        received = count_metrics(families)
        families = self._transforms.apply(families, now_ms)
        return Transformed(len(families), count_metrics(families), received, families)


def _make_plan(transforms: Transforms) -> _compiled.Plan | None:
    """The transforms as the compiled code takes them; None if it cannot apply them."""
    if _compiled is None or not _suits(transforms):
        return None
    return _compiled.Plan(
        transforms.labels,
        transforms.renames,
        transforms.anonymized,
        lambda value: anonymous(value, transforms.salt),
    )


def _suits(transforms: Transforms) -> bool:
    labels = transforms.labels
    return (
        max(len(labels), len(transforms.anonymized)) <= _compiled.MOST_NAMES
        and all(labels)
        and NAME not in labels
        and not any(map(is_too_long, (*labels, *labels.values())))
    )
