"""The sieve that decides which series of a remote write may pass: docs/protocol.md, "Receive"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from telemeter.convert.dropped import Examples
from telemeter.convert.results import Written
from telemeter.samples.errors import BadInputError
from telemeter.samples.limits import MAX_LABEL_NAME, MAX_LABEL_VALUE
from telemeter.samples.selector import NAME
from telemeter.samples.whitelist import Whitelist

Labels: TypeAlias = dict[str, str]
Pairs: TypeAlias = tuple[tuple[str, str], ...]

#: How many characters of a series, or of a text in it, a message shows.
SHOWN: Final = 200


class MissingLabelError(BadInputError):
    """A series does not carry the partition label."""


class ForeignIdError(BadInputError):
    """A series carries another cluster's identifier."""


@dataclass(frozen=True, slots=True)
class WriteRules:
    """The demands on every series, and the changes to it.

    Attributes:
        whitelist: what may pass.
        elided: names of the labels to remove, also of those that are added.
        partition_label: the label that every series must carry.
        cluster: the value that it must have; None: any.
        most_name: how many bytes the name of a label may have.
        most_value: how many bytes its value may have.
        keep_origins: whether a histogram that becomes a classic one leaves its origin with it, for
            who has to know which series go with it: a series with its labels, and a histogram with
            nothing but time, schema and bounds; and with its sum, if that marks its end.
        added: labels to add; one that is there already is overwritten.
    """

    whitelist: Whitelist = field(default_factory=Whitelist)
    elided: frozenset[str] = frozenset()
    partition_label: str = "_id"
    cluster: str | None = None
    keep_origins: bool = False
    most_name: int = MAX_LABEL_NAME
    most_value: int = MAX_LABEL_VALUE
    added: Mapping[str, str] = field(default_factory=dict)


class Sieve:
    """A sieve for the series of one request, which remembers the label sets that have passed."""

    def __init__(self, rules: WriteRules, result: Written) -> None:
        self._rules = rules
        self._result = result
        self._examples = Examples()
        self._seen: dict[Pairs, tuple[Pairs, set[int]]] = {}

    def sift(self, labels: Labels, stamps: Sequence[int]) -> Pairs | None:
        """Return the labels that a series goes on with, sorted; None if it does not go on.

        Args:
            labels: of labels with one name the first, none with an empty value.
            stamps: the timestamps of its samples.

        Raises:
            BadInputError: the whole request is refused.
        """
        rules, result = self._rules, self._result
        result.received += 1
        for name, value in labels.items():
            if len(name) > rules.most_name // 4 or len(value) > rules.most_value // 4:
                self._check_length(name, value)
        if NAME not in labels:
            raise BadInputError(f"a series has no metric name (label {NAME}): {shown(labels)}")
        cluster = labels.get(rules.partition_label)
        if cluster is None:
            raise MissingLabelError(
                f"a series lacks the label {rules.partition_label}: {shown(labels)}"
            )
        if rules.cluster is not None and cluster != rules.cluster:
            raise ForeignIdError(
                f"the label {rules.partition_label} must be the cluster_id of the token, "
                f"{rules.cluster!r}: {shown(labels)}"
            )
        if not rules.whitelist.allows(labels):
            result.dropped += 1
            self._examples.add(labels)
            result.dropped_examples = self._examples.found
            return None
        original = tuple(sorted(labels.items()))
        kept = self.claim(original, original, stamps)
        if kept is not None:
            result.series += 1
        return kept

    def _check_length(self, name: str, value: str) -> None:
        """Refuse a name or value of a label that is too long, in bytes of UTF-8."""
        rules = self._rules
        size = len(name.encode())
        if size > rules.most_name:
            raise BadInputError(
                f"the name of a label has {size} bytes, {rules.most_name} are the most "
                f"(--limit-label-name-bytes): {name[:SHOWN]!r}..."
            )
        size = len(value.encode())
        if size > rules.most_value:
            raise BadInputError(
                f"the value of the label {name[:SHOWN]} has {size} bytes, {rules.most_value} are "
                f"the most (--limit-label-value-bytes): {value[:SHOWN]!r}..."
            )

    def claim(self, pairs: Pairs, original: Pairs, stamps: Sequence[int]) -> Pairs | None:
        """Return the labels that a series goes on with; None if it is a duplicate.

        Args:
            pairs: its labels, sorted.
            original: what tells it from others that become identical.
            stamps: the timestamps of its samples.
        """
        rules = self._rules
        if rules.added:
            # Code points sort as their UTF-8 does, so this is the order by bytes.
            pairs = tuple(sorted({**dict(pairs), **rules.added}.items()))
        kept = tuple(pair for pair in pairs if pair[0] not in rules.elided and pair[1])
        if self._is_duplicate(kept, original, stamps):
            self._result.duplicates += 1
            return None
        return kept

    def _is_duplicate(self, kept: Pairs, original: Pairs, stamps: Sequence[int]) -> bool:
        """Return whether the upstream would find a series in conflict with an earlier one.

        A sender may well repeat a series in one request, with other timestamps: Prometheus does so
        when it has fallen behind. But two series that only became identical here must not mix.
        """
        first, known = self._seen.setdefault(kept, (original, set()))
        if first != original or (stamps and known.issuperset(stamps)):
            return True
        known.update(stamps)
        return False


def shown(labels: Labels) -> str:
    """Return a series as text for a message, cut short."""
    text = "{"
    for name, value in labels.items():
        text += f"{', ' if len(text) > 1 else ''}{name[:SHOWN]}={value[:SHOWN]!r}"
        if len(text) > SHOWN:  # not all of it first: symbols can make it gigabytes
            return text[:SHOWN] + "..."
    return text + "}"
