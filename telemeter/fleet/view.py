"""A view of the fleet: the clusters that are shown, in their order.

With 100,000 clusters that takes a tenth of a second, which nobody may be made to wait for. So it is
done in slices of a few milliseconds, and by no more than what the page that is asked for needs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from telemeter.fleet.record import FleetRecord
from telemeter.fleet.totals import State
from telemeter.loop.clocks import Elapsed

#: How many clusters are looked at in a slice.
SLICE: Final = 2000

#: What a view can be sorted by.
SORTS: Final = (
    "id",
    "state",
    "seen",
    "uploaded",
    "received",
    "kept",
    "dropped",
    "duplicates",
    "status",
    "drift",
    "agent",
    "expires",
)


@dataclass(frozen=True, slots=True)
class Query:
    """A query for clusters.

    Attributes:
        sort: one of `SORTS`.
        is_descending: whether the largest comes first.
        contains: only clusters whose identifier has this in it; A to Z are like a to z.
        states: only clusters in one of these states; empty: in any.
        reason: only clusters whose last attempt was refused for a reason that has this in it.
        agent: only clusters whose User-Agent has this in it.
    """

    sort: str = "state"
    is_descending: bool = True
    contains: str = ""
    states: frozenset[State] = frozenset()
    reason: str = ""
    agent: str = ""


class View:
    """The clusters that a query selects, in its order, as they stood when it was begun.

    Attributes:
        version: the record's when it was begun.
        began: when that was.
        total: how many clusters are selected; known when the first slots are.
    """

    def __init__(self, record: FleetRecord, query: Query, now: Elapsed) -> None:
        self.version = record.version
        self.began = now
        self.total = 0
        self._record = record
        self._query = query
        self._minute = record.minute_of(now)
        self._states = bytearray()
        self._ordered: list[int] = []
        self._rest: Iterator[int] | None = None

    def prepare(self, end: int) -> Iterator[None]:
        """Find the first clusters, up to a position; each step takes a few milliseconds."""
        if self._rest is None:
            runs: list[list[int]] = []
            yield from self._runs(runs)
            self.total = sum(map(len, runs))
            descending = self._query.is_descending
            self._rest = heapq.merge(*runs, key=self._key(), reverse=descending)
        end = min(end, self.total)
        while len(self._ordered) < end:
            yield
            self._ordered += islice(self._rest, min(SLICE, end - len(self._ordered)))

    def slots(self, begin: int, end: int) -> list[int]:
        """Return the slots of clusters that were prepared."""
        return self._ordered[begin:end]

    def _runs(self, runs: list[list[int]]) -> Iterator[None]:
        descending, count = self._query.is_descending, len(self._record.places)
        self._states = bytearray(count)
        key = self._key()
        for begin in range(0, count, SLICE):
            yield
            slots = range(begin, min(begin + SLICE, count))
            self._states[slots.start : slots.stop] = self._record.states_of(slots, self._minute)
            run = self._selected(slots)
            run.sort(key=key, reverse=descending)
            runs.append(run)

    def _selected(self, slots: range) -> list[int]:
        record, query, states = self._record, self._query, self._states
        ids = record.ids
        chosen = [slot for slot in slots if ids[slot]]  # the others are vacant
        if query.states:
            chosen = [slot for slot in chosen if states[slot] in query.states]
        if query.contains:
            needle = _needle(query.contains)
            chosen = [slot for slot in chosen if needle in ids[slot].lower()]
        if query.agent:
            needle, agents = _needle(query.agent), record.agents
            chosen = [slot for slot in chosen if needle in agents[slot].lower()]
        if query.reason:
            reason = query.reason.lower()
            chosen = [slot for slot in chosen if reason in record.reason(slot).lower()]
        return chosen

    def _key(self) -> Callable[[int], Any]:
        record = self._record
        if self._query.sort == "id":
            return record.ids.__getitem__
        if self._query.sort == "state":
            return self._states.__getitem__
        if self._query.sort == "agent":
            return record.agents.__getitem__
        column: Callable[[int], Any] = getattr(record, self._query.sort).__getitem__
        return column


def _needle(text: str) -> bytes:
    """Return what to look for in UTF-8; A to Z are like a to z."""
    return text.encode("utf-8", "replace").lower()
