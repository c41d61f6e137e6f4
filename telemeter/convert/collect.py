"""The transforms of the agent: the reference, on decoded families."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from telemeter.samples.errors import BadInputError
from telemeter.samples.family import (
    MAX_AGE_MS,
    VALUE_FIELD,
    Family,
    Metric,
    holds_its_type,
    is_too_long,
)
from telemeter.samples.histogram import checked_native
from telemeter.samples.selector import NAME

_HASH_BYTES = 9


@dataclass(frozen=True, slots=True)
class Transforms:
    """The configured transforms, applied in the order of docs/protocol.md, "Agent cycle".

    Attributes:
        labels: labels to add; one that is there already is overwritten.
        renames: new metric names by old ones.
        anonymized: names of the labels whose values are replaced by their hashes.
        salt: the bytes that the hashes are salted with.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    anonymized: frozenset[str] = frozenset()
    salt: bytes = b""

    def apply(self, families: Iterable[Family], now_ms: int) -> list[Family]:
        """Transform families in place; those with nothing left are not in the result.

        Args:
            families: what was collected.
            now_ms: the time, in milliseconds since the epoch.
        """
        kept = []
        for family in families:
            if self.labels:
                add_labels(family, self.labels)
            if family.name in self.renames:
                family.name = self.renames[family.name]
            if drop_invalid(family, now_ms):
                sort_by_time(family)
                kept.append(family)
        if self.anonymized:
            anonymize(kept, self.anonymized, self.salt)
        return kept


def add_labels(family: Family, labels: Mapping[str, str]) -> None:
    """Give every metric these labels, in place of any that it has under the same names."""
    for metric in family.metric:
        missing = dict(labels)
        for pair in metric.label:
            if pair.name in labels:
                pair.value = labels[pair.name]
                missing.pop(pair.name, None)
        for name, value in missing.items():
            metric.label.add(name=name, value=value)


def drop_invalid(family: Family, now_ms: int) -> bool:
    """Drop what a server would refuse a whole upload for.

    That is a sample without a timestamp or with one over 24 hours old, with a label name or value
    that is too long, with a label `__name__`, without the value that its family's type asks for, or
    with a native histogram that makes no sense; and labels that lack their name or their value.

    Returns:
        Whether anything is left; never, for a family without a name or a type.
    """
    if (
        not family.name
        or is_too_long(family.name)
        or not family.HasField("type")
        or family.type not in VALUE_FIELD
    ):
        return False
    oldest = now_ms - MAX_AGE_MS
    kept = [metric for metric in family.metric if _drop_invalid_labels(metric, family.type, oldest)]
    if len(kept) < len(family.metric):
        copies = [Metric.FromString(metric.SerializeToString()) for metric in kept]
        del family.metric[:]
        family.metric.extend(copies)
    return bool(kept)


def _drop_invalid_labels(metric: Metric, family_type: int, oldest_ms: int) -> bool:
    if not metric.HasField("timestamp_ms") or metric.timestamp_ms < oldest_ms:
        return False
    if not holds_its_type(metric, family_type):
        return False
    try:
        checked_native(metric, family_type, 0)
    except BadInputError:
        return False
    for at in reversed(range(len(metric.label))):
        pair = metric.label[at]
        if not pair.name or not pair.HasField("value"):
            del metric.label[at]
        elif pair.name == NAME or is_too_long(pair.name) or is_too_long(pair.value):
            return False
    return True


def sort_by_time(family: Family) -> None:
    """Sort the metrics by timestamp, those of one time in the order they had."""
    stamps = [metric.timestamp_ms for metric in family.metric]
    if any(later < earlier for earlier, later in pairwise(stamps)):
        family.metric.sort(key=lambda metric: metric.timestamp_ms)


def anonymize(families: Iterable[Family], names: frozenset[str], salt: bytes) -> None:
    """Replace the values of the labels with these names by their hashes; empty ones stay empty."""
    hashes: dict[str, str] = {}
    for family in families:
        for metric in family.metric:
            for pair in metric.label:
                value = pair.value
                if value and pair.name in names:
                    hashed = hashes.get(value)
                    if hashed is None:
                        hashed = hashes[value] = anonymous(value, salt)
                    pair.value = hashed


def anonymous(value: str, salt: bytes) -> str:
    """Return the hash that stands for a label value: the same for the same value and salt.

    It is the first 9 bytes of SHA-256(salt + value), as URL-safe base64 without padding.
    """
    digest = hashlib.sha256(salt + value.encode()).digest()
    return base64.urlsafe_b64encode(digest[:_HASH_BYTES]).decode()
