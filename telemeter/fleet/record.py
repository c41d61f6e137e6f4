"""The record: for each cluster what its last attempts came to.

Numbers are held in columns, one array each: that takes a tenth of the memory of objects, and an
order by a column needs no more than the column.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from telemeter.convert.upload import DRIFT_MS
from telemeter.fleet.attempt import MAX_AGENT, MAX_ID, MAX_REASON, Attempt, Path, clip, clip_drift
from telemeter.fleet.database import SavedCluster, SavedMinute
from telemeter.fleet.history import (
    MAX_ENTRY,
    Dropped,
    Past,
    add_attempt,
    are_examples,
    is_trail,
    last_reason,
    pack_examples,
    read_examples,
    read_trail,
)
from telemeter.fleet.totals import Minute, Standing, State
from telemeter.loop.clocks import Elapsed, Moment, Wall

#: After how many seconds without a word a cluster counts as silent, unless told otherwise.
SILENT_AFTER: Final = 900.0
#: How many bytes the id, the dropped series and the trail of a cluster may have together.
_TEXTS: Final = 560
_EXAMPLES: Final = 240
#: How many claims to be clusters that are not known are remembered: anybody can make them.
MAX_UNKNOWN: Final = 100
#: User-Agents are few: so many are held once only.
_SHARED_AGENTS: Final = 256
_TOO_EARLY = 429
# Python 3.11 looks up an enum's members slowly, and this is done for every request.
_AUTHORIZE: Final = Path.AUTHORIZE
_OK, _DRIFTING, _SILENT, _FAILED, _REFUSED = State
#: Stands for a drift that is not known.
NO_DRIFT: Final = -(2**31)
#: The largest number of a column of counts.
_MOST: Final = 2**32 - 1
#: No token holds longer, in seconds since the epoch: the end of the year 9999.
_FAR: Final = 253_402_300_799.0
_STATES: Final = frozenset(map(int, State))
_PATHS: Final = frozenset(map(int, Path))
_A_DAY: Final = 86_400.0
#: A clock is off that is further off than this, in seconds.
_DRIFT = DRIFT_MS // 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A cluster as the record knows it.

    Attributes:
        cluster: its identifier.
        state: how it does.
        seen: when it last made an attempt.
        uploaded: when one last succeeded; None: never.
        path: where its last attempt was made.
        status: the status of that.
        reason: why it was refused.
        received, kept, dropped, duplicates: the series of the last attempt that came so far.
        drift: by how many seconds the newest timestamp of that attempt lay ahead of the server's
            clock, negative: behind; None: not known.
        agent: its User-Agent.
        expires: until when its token holds; 0: not known.
        claims: how often somebody was refused who only claimed to be it.
    """

    cluster: str
    state: State
    seen: Wall
    uploaded: Wall | None
    path: Path
    status: int
    reason: str
    received: int
    kept: int
    dropped: int
    duplicates: int
    drift: int | None
    agent: str
    expires: Wall
    claims: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A refusal of somebody who only claimed to be a cluster.

    Attributes:
        at: when.
        status: what the answer was.
        count: how often that has happened.
    """

    at: Wall
    status: int
    count: int


@dataclass(frozen=True, slots=True)
class UnknownClaim:
    """Refusals of somebody who claimed to be a cluster that is not known.

    Attributes:
        cluster: the identifier that was claimed.
        claim: the last refusal.
        reason: why it was refused.
    """

    cluster: str
    claim: Claim
    reason: str


@dataclass(frozen=True, slots=True)
class Detail:
    """All that is known of a cluster.

    Attributes:
        row: the summary.
        attempts: the last attempts, the newest first, with their times of day.
        dropped: examples of series that no rule allowed.
        claim: the last refusal of somebody who could not prove to be this cluster.
    """

    row: Row
    attempts: tuple[tuple[Wall, Past], ...]
    dropped: tuple[Dropped, ...]
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole fleet.

    Attributes:
        clusters: how many are known.
        forgotten: how many were forgotten, to make room for others.
        states: how many are in each state.
        minutes: the last hour, the oldest first: when minutes began, and what they brought.
    """

    clusters: int
    forgotten: int
    states: dict[State, int]
    minutes: list[tuple[Wall, Minute]]


class FleetRecord:
    """The record of a fleet.

    It is kept by elapsed time: to set the wall clock makes no cluster silent, and none forgotten. A
    time of day is that of the moment when somebody asks, less the age. Minutes begin with those of
    the wall clock as it went when the record was made.

    Attributes:
        max_clusters: how many clusters are remembered.
        recent: for how many minutes a cluster counts as heard of.
        version: grows with each change.
    """

    def __init__(
        self, max_clusters: int, began: Moment, silent_after: float = SILENT_AFTER
    ) -> None:
        """Make an empty record.

        Args:
            max_clusters: how many clusters are remembered, 1 at least; the one that was silent for
                the longest time is forgotten first.
            began: when it is made.
            silent_after: after how many seconds without a word a cluster counts as silent.
        """
        self.max_clusters = max_clusters
        self.recent = max(1, round(silent_after / 60))
        self.version = 0
        # Times in the columns are elapsed seconds and these; 0 stands for never.
        self._origin = max(began.wall, _A_DAY) - began.elapsed
        self._forgotten = 0
        self._unsaved: dict[bytes, None] | None = None
        self._vacant: list[int] = []
        self._oldest: tuple[int, float] | None = None
        self._standing = Standing(self.recent)
        # By the identifier that was claimed: when, the status, how often, why; the last one last.
        self._unknown: OrderedDict[bytes, tuple[float, int, int, bytes]] = OrderedDict()
        self._agents: dict[bytes, bytes] = {}
        # By the time of their last attempts, so that the first is the one to forget.
        self._slots: OrderedDict[bytes, int] = OrderedDict()
        # The columns. A cluster's place in them is its slot.
        self.ids: list[bytes] = []
        self.agents: list[bytes] = []
        self.seen = array("d")
        self.uploaded = array("d")
        self.expires = array("d")
        self.received = array("I")
        self.kept = array("I")
        self.dropped = array("I")
        self.duplicates = array("I")
        self.status = array("H")
        self.drift = array("i")
        self._condition = array("B")
        self._path = array("B")
        self._trails: list[bytes] = []
        self._examples: list[bytes] = []
        self._claimed = array("d")
        self._claims = array("I")
        self._claim_status = array("H")
        self._versions = array("Q")

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def places(self) -> range:
        """Return all slots; those that are vacant have an empty identifier."""
        return range(len(self.ids))

    # --- writing ----------------------------------------------------------------------------------

    def record(self, attempt: Attempt) -> None:
        """Take note of an attempt.

        Only who has proven to be a cluster gets a place: anybody may claim to be one, and would
        push the others out.
        """
        at = attempt.at + self._origin
        minute = int(at // 60)
        self._standing.tick(minute)
        if attempt.path is not _AUTHORIZE or not attempt.succeeded:
            self._standing.count(attempt, minute)
        self.version += 1
        if not attempt.verified:
            self._note_claim(attempt, at)
        elif 0 < len(attempt.cluster) <= MAX_ID:
            self._note_attempt(attempt, at, minute)

    def _note_claim(self, attempt: Attempt, at: float) -> None:
        if attempt.succeeded:
            return
        slot = self._slots.get(attempt.cluster)
        if slot is None:
            self._note_unknown(attempt, at)
        else:
            self._claimed[slot] = at
            self._claims[slot] = min(self._claims[slot] + 1, _MOST)
            self._claim_status[slot] = attempt.status
            if self._unsaved is not None:
                self._unsaved[attempt.cluster] = None

    def _note_unknown(self, attempt: Attempt, at: float) -> None:
        """Remember a claim to be a cluster that is not known; the last few are enough."""
        if not 0 < len(attempt.cluster) <= MAX_ID:
            return
        _, _, count, _ = self._unknown.pop(attempt.cluster, (0.0, 0, 0, b""))
        reason = attempt.reason[:MAX_REASON]
        self._unknown[attempt.cluster] = at, attempt.status, min(count + 1, _MOST), reason
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.popitem(last=False)

    def _note_attempt(self, attempt: Attempt, at: float, minute: int) -> None:
        cluster, standing = attempt.cluster, self._standing
        slot = self._slots.get(cluster)
        if slot is None:
            slot = self._slot_for(cluster)
            self._unknown.pop(cluster, None)
        else:
            self._slots.move_to_end(cluster)
            standing.leave(*self._stands(slot))
        self.seen[slot] = at
        self.status[slot] = attempt.status
        self._path[slot] = attempt.path
        self._versions[slot] = self.version
        if attempt.status < 400:
            self.uploaded[slot], uploaded = at, minute
        else:
            uploaded = int(self.uploaded[slot] // 60)
        if attempt.expires:
            self.expires[slot] = attempt.expires
        self.agents[slot] = self._agents.get(attempt.agent) or self._shared(attempt.agent)
        if attempt.measured:
            self._measure(slot, attempt)
        self._condition[slot] = condition = self._condition_after(slot, attempt)
        room = _TEXTS - len(cluster) - len(self._examples[slot])
        self._trails[slot] = add_attempt(self._trails[slot], attempt, at, room)
        standing.enter(minute, condition, uploaded, self.kept[slot])
        if self._unsaved is not None:
            self._unsaved[cluster] = None

    def _measure(self, slot: int, attempt: Attempt) -> None:
        self.received[slot] = attempt.received
        self.kept[slot] = attempt.kept
        self.dropped[slot] = attempt.dropped
        self.duplicates[slot] = attempt.duplicates
        self.drift[slot] = NO_DRIFT if attempt.drift is None else clip_drift(attempt.drift)
        room = min(_EXAMPLES, _TEXTS - len(attempt.cluster) - MAX_ENTRY)
        self._examples[slot] = pack_examples(attempt.examples, room) if attempt.examples else b""

    def _condition_after(self, slot: int, attempt: Attempt) -> int:
        if attempt.succeeded:
            drift = self.drift[slot]
            is_right = -_DRIFT <= drift <= _DRIFT or drift == NO_DRIFT
            return _OK if is_right else _DRIFTING
        if attempt.status == _TOO_EARLY and self.uploaded[slot]:
            return self._condition[slot]  # it is only too eager
        return _FAILED if attempt.failed else _REFUSED

    def _stands(self, slot: int) -> tuple[int, int, int, int]:
        seen, uploaded = self.seen[slot], self.uploaded[slot]
        return int(seen // 60), self._condition[slot], int(uploaded // 60), self.kept[slot]

    def _shared(self, agent: bytes) -> bytes:
        if len(self._agents) < _SHARED_AGENTS:
            return self._agents.setdefault(agent, agent)
        return agent

    def _slot_for(self, cluster: bytes) -> int:
        if len(self._slots) >= self.max_clusters:
            self._forget_oldest()
        if self._vacant:
            slot = self._vacant.pop()
            self.ids[slot] = cluster
            for column in self._numbers():
                column[slot] = 0
        else:
            slot = len(self.ids)
            self.ids.append(cluster)
            for texts in (self.agents, self._trails, self._examples):
                texts.append(b"")
            for column in self._numbers():
                column.append(0)
        self.drift[slot] = NO_DRIFT
        self._slots[cluster] = slot
        return slot

    def _forget_oldest(self) -> None:
        cluster, slot = self._slots.popitem(last=False)
        self._standing.leave(*self._stands(slot))
        if self._unsaved is not None:
            self._unsaved.pop(cluster, None)
        self._forgotten += 1
        self._vacant.append(slot)
        self.uploaded[slot] = 0.0
        for texts in (self.ids, self.agents, self._trails, self._examples):
            texts[slot] = b""

    def forget_silent(self, seconds: float, now: Elapsed, most: int) -> bool:
        """Forget clusters of which nothing was heard for so long, but not too many at once.

        Returns:
            Whether all are forgotten.
        """
        before = self.time_of(now) - seconds
        for _ in range(most):
            oldest = next(iter(self._slots.values()), None)
            if oldest is None or self.seen[oldest] >= before:
                return True
            self._forget_oldest()
            self.version += 1
        return False

    def _numbers(self) -> tuple[array[int] | array[float], ...]:
        return (
            *(self.seen, self.uploaded, self.expires),
            *(self.received, self.kept, self.dropped, self.duplicates),
            *(self.status, self.drift, self._condition, self._path),
            *(self._claimed, self._claims, self._claim_status, self._versions),
        )

    # --- keeping ----------------------------------------------------------------------------------

    def keep_track(self) -> None:
        """Remember from now on which clusters have changed, for `take_unsaved`; at first all."""
        self._unsaved = dict.fromkeys(self._slots)

    @property
    def unsaved(self) -> int:
        """Return how many clusters `take_unsaved` would return."""
        return len(self._unsaved or ())

    def take_unsaved(self, most: int) -> list[SavedCluster]:
        """Return clusters that have changed since they were last returned, as they are now."""
        unsaved = self._unsaved
        if not unsaved:
            return []
        chosen = list(islice(unsaved, most))
        for cluster in chosen:
            del unsaved[cluster]
        return [self._saved(self._slots[cluster]) for cluster in chosen]

    def put_back(self, clusters: Iterable[SavedCluster]) -> None:
        """Have clusters returned once more by `take_unsaved`: they were not saved."""
        if self._unsaved is not None:
            for cluster in clusters:
                name = cluster.id.encode()
                if name in self._slots:
                    self._unsaved[name] = None

    def _saved(self, slot: int) -> SavedCluster:
        drift = self.drift[slot]
        return SavedCluster(
            self.ids[slot].decode("utf-8", "replace"),
            self.seen[slot],
            self.uploaded[slot],
            self.expires[slot],
            self.received[slot],
            self.kept[slot],
            self.dropped[slot],
            self.duplicates[slot],
            self.status[slot],
            None if drift == NO_DRIFT else drift,
            self._condition[slot],
            self._path[slot],
            self._claimed[slot],
            self._claims[slot],
            self._claim_status[slot],
            self.agents[slot].decode("utf-8", "replace"),
            self._trails[slot],
            self._examples[slot],
        )

    def restore(self, clusters: Iterable[SavedCluster], now: Elapsed) -> int:
        """Take up clusters that were saved, the last seen first; return how many.

        What is known of a cluster already is newer, and stays. A time ahead of `now` was written
        while a clock was wrong, and counts as now. So do numbers that no attempt can have.
        """
        minute, latest = self.minute_of(now), self.time_of(now)
        self._standing.tick(minute)
        restored = 0
        for saved in clusters:
            cluster = saved.id.encode()
            if cluster in self._slots or not 0 < len(cluster) <= MAX_ID:
                continue
            if len(self._slots) >= self.max_clusters:
                break
            slot = self._slot_for(cluster)
            self._slots.move_to_end(cluster, last=False)
            self._fill(slot, saved, latest)
            self._standing.enter(*self._stands(slot))
            restored += 1
        self.version += bool(restored)
        return restored

    def saved_minutes(self, now: Elapsed, since: int) -> list[SavedMinute]:
        """Return the minutes of the last hour from one on; the last one is not over yet."""
        return [
            SavedMinute(
                number,
                minute.uploads,
                minute.kept,
                minute.dropped,
                minute.failed,
                minute.forward_errors,
                minute.reporting,
                minute.series,
                json.dumps(minute.problems),
            )
            for number, minute in self._standing.history(self.minute_of(now))
            if number >= since
        ]

    def restore_minutes(self, minutes: Iterable[SavedMinute]) -> None:
        """Take up minutes that were saved, but for those that are known already."""
        for saved in minutes:
            numbers = saved[1:-1]
            minute = Minute(*numbers[:3], Counter(), *numbers[3:])
            minute.problems.update(_read_problems(saved.problems))
            self._standing.put(saved.at, minute)

    def _fill(self, slot: int, saved: SavedCluster, latest: float) -> None:
        self.seen[slot] = min(max(saved.seen, 0.0), latest)
        self.uploaded[slot] = min(max(saved.uploaded, 0.0), latest)
        self.expires[slot] = min(max(saved.expires, 0.0), _FAR)
        for column, number in (
            (self.received, saved.received),
            (self.kept, saved.kept),
            (self.dropped, saved.dropped),
            (self.duplicates, saved.duplicates),
            (self._claims, saved.claims),
        ):
            column[slot] = min(max(number, 0), _MOST)
        self.status[slot] = saved.status & 0xFFFF
        self.drift[slot] = NO_DRIFT if saved.drift is None else clip_drift(saved.drift)
        self._condition[slot] = saved.condition if saved.condition in _STATES else _OK
        self._path[slot] = saved.path if saved.path in _PATHS else 0
        self._claimed[slot] = min(max(saved.claimed, 0.0), latest)
        self._claim_status[slot] = saved.claim_status & 0xFFFF
        self.agents[slot] = self._shared(clip(saved.agent, MAX_AGENT))
        self._trails[slot] = saved.trail if is_trail(saved.trail) else b""
        self._examples[slot] = saved.examples if are_examples(saved.examples) else b""

    # --- reading ----------------------------------------------------------------------------------

    def slot_of(self, cluster: str) -> int | None:
        """Return the slot of a cluster, if it is known."""
        return self._slots.get(cluster.encode("utf-8", "replace"))

    def time_of(self, now: Elapsed) -> float:
        """Return a time as the record has it: seconds since the epoch, if no clock was set."""
        return now + self._origin

    def minute_of(self, now: Elapsed) -> int:
        """Return the number of the minute that a time is in."""
        return int(self.time_of(now) // 60)

    def state_of(self, slot: int, minute: int) -> State:
        """Return the state of a cluster in this minute."""
        if minute - int(self.seen[slot] // 60) >= self.recent:
            return State.SILENT
        return State(self._condition[slot])

    def states_of(self, slots: range, minute: int) -> bytes:
        """Return the states of the clusters in some slots, quickly."""
        quiet = (minute - self.recent + 1) * 60
        silent, seen, conditions = _SILENT.value, self.seen, self._condition
        return bytes([silent if seen[slot] < quiet else conditions[slot] for slot in slots])

    def reason(self, slot: int) -> str:
        """Return why the last attempt of the cluster in a slot was refused."""
        return last_reason(self._trails[slot])

    def row(self, slot: int, now: Moment) -> Row:
        """Return what is known of the cluster in a slot."""
        drift, uploaded = self.drift[slot], self.uploaded[slot]
        return Row(
            self.ids[slot].decode(),
            self.state_of(slot, self.minute_of(now.elapsed)),
            self.date(self.seen[slot], now),
            self.date(uploaded, now) if uploaded else None,
            Path(self._path[slot]),
            self.status[slot],
            self.reason(slot),
            self.received[slot],
            self.kept[slot],
            self.dropped[slot],
            self.duplicates[slot],
            None if drift == NO_DRIFT else drift,
            self.agents[slot].decode("utf-8", "replace"),
            Wall(self.expires[slot]),
            self._claims[slot],
        )

    def detail(self, slot: int, now: Moment) -> Detail:
        """All that is known of the cluster in a slot."""
        claim = None
        if self._claims[slot]:
            at = self.date(self._claimed[slot], now)
            claim = Claim(at, self._claim_status[slot], self._claims[slot])
        return Detail(
            self.row(slot, now),
            tuple((self.date(past.at, now), past) for past in read_trail(self._trails[slot])),
            tuple(read_examples(self._examples[slot])),
            claim,
        )

    def unknown_claims(self, now: Moment) -> list[UnknownClaim]:
        """Return the last refused claims to be clusters that are not known, the newest first."""
        return [
            UnknownClaim(
                cluster.decode("utf-8", "replace"),
                Claim(self.date(at, now), status, count),
                reason.decode("utf-8", "replace"),
            )
            for cluster, (at, status, count, reason) in reversed(self._unknown.items())
        ]

    def changed_since(self, version: int) -> Iterator[int]:
        """Return the slots of the clusters that made attempts after a version, the newest first.

        Take from it what is wanted before anything else is recorded.
        """
        for slot in reversed(self._slots.values()):
            if self._versions[slot] <= version:
                return
            yield slot

    def totals(self, now: Moment) -> Totals:
        """Return the whole fleet."""
        minute = self.minute_of(now.elapsed)
        return Totals(
            len(self),
            self._forgotten,
            self._standing.states(len(self), minute),
            [
                (self.date(number * 60, now), each)
                for number, each in self._standing.history(minute)
            ],
        )

    def oldest_upload(self, now: Moment) -> Wall | None:
        """Return the earliest of the clusters' last uploads; None: there is none.

        It is looked for once a minute, because all clusters are looked at: for a million of them it
        takes some hundredths of a second.
        """
        minute = self.minute_of(now.elapsed)
        if self._oldest is None or self._oldest[0] != minute:
            self._oldest = minute, min(filter(None, self.uploaded), default=0.0)
        oldest = self._oldest[1]
        return self.date(oldest, now) if oldest else None

    def date(self, at: float, now: Moment) -> Wall:
        """Return a time in the columns as a time of day."""
        return now.date(at - self._origin)


def _read_problems(text: str) -> dict[int, int]:
    """Return attempts that did not succeed by status; of what is no such thing, nothing."""
    try:
        found = json.loads(text)
        return {int(status): int(count) for status, count in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
