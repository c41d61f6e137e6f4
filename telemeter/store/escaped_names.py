"""The series and families that are one for a reader that takes other names than the store has.

Several names may become the same when they are escaped. A family must not be there twice in an
answer, and neither must a series: a reader would refuse all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from telemeter.samples.escaping import Escaping, escape_label, escape_name
from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import NAME
from telemeter.samples.wire import write_varint
from telemeter.store.cluster import ClusterSeries

Passes: TypeAlias = Callable[[list[bytes]], bool]

#: How many metric names are escaped at the most; each is remembered while an answer is made.
_MOST_NAMES: Final = 65536
#: How many names may become the same: each is looked for in every cluster.
_MOST_ALIKE: Final = 64
#: How many labels are remembered, ...
_MOST_REMEMBERED: Final = 16384
#: ... and how long they may be, in bytes.
_LONG_LABEL: Final = 512
_PLAIN: Final = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")


def is_plain(name: bytes) -> bool:
    """Return whether a metric name is one of the text format."""
    return _PLAIN.fullmatch(name) is not None


def label_of(encoded: bytes) -> tuple[str, str]:
    """Return the name and the value of a label that is encoded as a field."""
    return _known_label(encoded) if len(encoded) <= _LONG_LABEL else _decoded(encoded)


def _decoded(encoded: bytes) -> tuple[str, str]:
    # A tag and a size in front of the message; the size ends with the first byte below 128.
    start = 2
    while encoded[start - 1] >= 0x80:
        start += 1
    label = remote_pb2.Label.FromString(encoded[start:])
    return label.name, label.value


_known_label = lru_cache(_MOST_REMEMBERED)(_decoded)


class Families:
    """The names that become others when they are escaped, by what they become."""

    def __init__(self, escaping: Escaping) -> None:
        self._escaping = escaping
        self._known: set[bytes] = set()
        self._members: dict[bytes, list[bytes]] = {}
        self._plain: set[bytes] = set()

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._members)

    def add(self, names: Iterable[bytes]) -> None:
        """Take note of names that have to be escaped; of very many, only of the first."""
        for name in names:
            if is_plain(name) or name in self._known or len(self._known) >= _MOST_NAMES:
                continue
            self._known.add(name)
            members = self._members.setdefault(self.shown(name), [])
            if len(members) < _MOST_ALIKE:
                members.append(name)

    def add_plain(self, names: Iterable[bytes]) -> None:
        """Take note of those names that others become."""
        self._plain.update(name for name in names if name in self._members)

    def shown(self, name: bytes) -> bytes:
        """Return a name as it is shown."""
        return name if is_plain(name) else escape_name(name.decode(), self._escaping).encode()

    def take(self, name: bytes) -> list[bytes]:
        """Return the names that are shown as one with a name: at the first of them all, then none.

        A name that is shown as it is comes first.
        """
        shown = self.shown(name)
        members = self._members.get(shown)
        if members is None:
            return [name] if name == shown else []
        self._members[shown] = []
        plain = [shown] if members and shown in self._plain else []
        return plain + sorted(members)


class LabelEscaper:
    """An escaper of labels in one family, which yields each series of a cluster once."""

    def __init__(self, escaping: Escaping, name: bytes, passes: Passes | None) -> None:
        """Make one.

        Args:
            escaping: what is done with names.
            name: the name of the family as it is shown.
            passes: what decides on series that have that name; None: they are not shown.
        """
        self._escaping = escaping
        self._name = name
        self._passes = passes
        self._cluster = ClusterSeries()
        self._seen: set[int] = set()

    def turn_to(self, cluster: ClusterSeries) -> None:
        """Take the next series for those of another cluster."""
        self._cluster = cluster
        self._seen = set()

    def escape(self, labels: list[bytes]) -> list[bytes] | None:
        """Return the labels that a series is shown with; None if it cannot be shown.

        That is when two of its labels become one, or when it becomes the same as another: a series
        that is shown as it is goes before.
        """
        shown: dict[str, bytes] = {}
        for label in labels:
            given, value = label_of(label)
            name = escape_label(given, self._escaping)
            if name in shown or name == NAME:
                return None
            shown[name] = label if name == given else _encoded(name, value)
        escaped = [shown[name] for name in sorted(shown)]
        key = b"".join(escaped)
        mark = hash(key)
        if mark in self._seen:
            return None
        if (
            self._passes is not None
            and self._cluster.has(self._name, key)
            and self._passes(escaped)
        ):
            return None
        self._seen.add(mark)
        return escaped


def _encoded(name: str, value: str) -> bytes:
    message = remote_pb2.Label(name=name, value=value).SerializeToString()
    return b"\x0a" + write_varint(len(message)) + message


def names_in_turns(clusters: Iterable[ClusterSeries | None]) -> Iterator[list[bytes]]:
    """Return the metric names of clusters, some at a time, some of them again and again."""
    for cluster in clusters:
        if cluster is None:
            yield []
        else:
            yield from cluster.names()
