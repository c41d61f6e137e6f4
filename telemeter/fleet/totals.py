"""The numbers of clusters by state, and the last hour, without looking at every cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from telemeter.fleet.attempt import Attempt

#: How many minutes of history there are.
HISTORY: Final = 60


class State(IntEnum):
    """The state of a cluster, the worse the higher.

    OK: its last attempt succeeded. DRIFTING: and its clock is off. SILENT: it has not been heard of
    for a while. FAILED: its last attempt was in order, and we could not pass it on. REFUSED: its
    last attempt was not in order.
    """

    OK = 0
    DRIFTING = 1
    SILENT = 2
    FAILED = 3
    REFUSED = 4


@dataclass(slots=True)
class Minute:
    """The attempts of one minute.

    Attributes:
        uploads: attempts that succeeded.
        kept, dropped: their series.
        problems: attempts that did not succeed, by status.
        failed: how many problems were not the sender's: its attempt was good, or not looked at.
        forward_errors: how many of the failed ones the upstream did not take.
        reporting: clusters whose last upload is recent, at its end.
        series: the series of those clusters.
    """

    uploads: int = 0
    kept: int = 0
    dropped: int = 0
    problems: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    forward_errors: int = 0
    reporting: int = 0
    series: int = 0

    @property
    def refused(self) -> int:
        """Return how many attempts failed."""
        return self.problems.total() - self.failed


#: What ends in a minute: attempts that are the last of their clusters, by state; and uploads that
#: are, and their series.
_CLUSTERS, _SERIES = len(State), len(State) + 1
_NOTHING: Final = [0] * (len(State) + 2)


class Standing:
    """Counts of clusters by the minutes of their last attempt and their last upload.

    Minutes are those of `FleetRecord.minute_of`.
    """

    def __init__(self, recent: int) -> None:
        """Begin with nothing.

        Args:
            recent: for how many minutes a cluster counts as heard of.
        """
        self.recent = recent
        self._ends: dict[int, list[int]] = {}
        self._minutes: dict[int, Minute] = {}
        self._now: int | None = None

    def tick(self, now: int) -> None:
        """Let it be this minute: what is over is settled, what is old is forgotten."""
        before = self._now
        if now == before:
            return
        self._now = now
        if before is not None:
            for minute in range(max(before, now - HISTORY), now):
                self._settle(minute)
        # A minute ahead is kept: attempts of several processes do not come in perfect order.
        self._ends = {m: each for m, each in self._ends.items() if now - self.recent < m <= now + 1}
        self._minutes = {
            m: each for m, each in self._minutes.items() if now - HISTORY < m <= now + 1
        }

    def _settle(self, minute: int) -> None:
        at = self._minutes.setdefault(minute, Minute())
        at.reporting, at.series = self._reporting(minute)

    def _reporting(self, now: int) -> tuple[int, int]:
        recent = [each for minute, each in self._ends.items() if now - minute < self.recent]
        return sum(each[_CLUSTERS] for each in recent), sum(each[_SERIES] for each in recent)

    def count(self, attempt: Attempt, number: int) -> None:
        """Count an attempt of a minute, whoever made it."""
        minute = self._minutes.get(number)
        if minute is None:
            minute = self._minutes[number] = Minute()
        if attempt.succeeded:
            minute.uploads += 1
            minute.kept += attempt.kept
            minute.dropped += attempt.dropped
        else:
            minute.problems[attempt.status] += 1
            minute.failed += attempt.failed
            minute.forward_errors += attempt.was_accepted

    def enter(self, seen: int, state: int, uploaded: int, series: int) -> None:
        """Count a cluster in a state from now on, with its number of series."""
        ends = self._ending(seen)
        ends[state] += 1
        if uploaded:
            if uploaded != seen:
                ends = self._ending(uploaded)
            ends[_CLUSTERS] += 1
            ends[_SERIES] += series

    def leave(self, seen: int, state: int, uploaded: int, series: int) -> None:
        """Stop counting a cluster in a state."""
        ends = self._ends.get(seen)
        if ends is not None:
            ends[state] -= 1
        if uploaded != seen:
            ends = self._ends.get(uploaded)
        if ends is not None and uploaded:
            ends[_CLUSTERS] -= 1
            ends[_SERIES] -= series

    def put(self, number: int, minute: Minute) -> None:
        """Take up a minute that was over before; one that is known stays."""
        self._minutes.setdefault(number, minute)

    def _ending(self, minute: int) -> list[int]:
        ends = self._ends.get(minute)
        if ends is None:
            ends = self._ends[minute] = _NOTHING.copy()
        return ends

    def states(self, clusters: int, now: int) -> dict[State, int]:
        """Return how many of so many clusters are in each state."""
        self.tick(now)
        recent = [each for minute, each in self._ends.items() if now - minute < self.recent]
        counts = {state: sum(each[state] for each in recent) for state in State}
        counts[State.SILENT] = clusters - sum(counts.values())
        return counts

    def history(self, now: int) -> list[tuple[int, Minute]]:
        """Return the last hour, the oldest minute first; the last one is not over yet."""
        self.tick(now)
        self._settle(now)
        empty = Minute()
        first = now - HISTORY + 1
        return [(minute, self._minutes.get(minute, empty)) for minute in range(first, now + 1)]


def problems_of(minutes: Iterable[Minute]) -> Counter[int]:
    """Return the attempts of several minutes that did not succeed, by status."""
    total: Counter[int] = Counter()
    for minute in minutes:
        total.update(minute.problems)
    return total
