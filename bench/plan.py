"""What is measured in a run, in which order, and what is measured side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bench.subjects import (
    ALL_CORES,
    FALLBACK,
    NGINX,
    TELEMETER,
    TWO_WORKERS,
    VMAGENT,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.subjects import Subject

Kind = Literal["upload", "receive"]
KINDS: Final[tuple[Kind, ...]] = ("upload", "receive")

#: As production has.
RULES: Final = 626
CONNECTIONS: Final = 16
#: On this many there are enough large requests under way, and wrk has room for them.
_CONNECTIONS_FOR_LARGE: Final = 4
_LARGE: Final = 10_000
#: How many series the requests have with which the cost by number of rules is measured.
SERIES_FOR_RULES: Final = 904


@dataclass(frozen=True)
class Case:
    """One figure to find: what a request costs a subject.

    Attributes:
        subject: the program.
        kind: of the request.
        series: how many each request has.
        rules: how many the whitelist has.
    """

    subject: Subject
    kind: Kind
    series: int
    rules: int = RULES

    @property
    def connections(self) -> int:
        """How many requests are under way at once."""
        return CONNECTIONS if self.series < _LARGE else _CONNECTIONS_FOR_LARGE


#: Cases that are measured in turn, again and again, so that what disturbs one disturbs all.
Group = tuple[Case, ...]


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        requests: one group for each row of the issue: all subjects with the same request.
        large: more groups of the kind, with large requests and without slow subjects.
        rules: groups in which the whitelist's length is all that differs.
        rounds: how often each case of a group gets its turn.
        seconds: how long a turn takes, but for the last answers.
        warm_up_seconds: how long each case is loaded before the first turn.
        agent_rounds: how many of the agent's cycles are measured in each way.
    """

    requests: tuple[Group, ...]
    large: tuple[Group, ...]
    rules: tuple[Group, ...]
    rounds: int
    seconds: float
    warm_up_seconds: float
    agent_rounds: int

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the measurements."""
        return self.requests + self.large + self.rules


def _side_by_side(kind: Kind, series: int, subjects: Sequence[Subject]) -> Group:
    return tuple(
        Case(subject, kind, series)
        for subject in subjects
        if kind == "receive" or subject.takes_uploads
    )


def full() -> Plan:
    """Return the run whose result is published: about five minutes."""
    subjects = [TELEMETER, TWO_WORKERS, FALLBACK, VMAGENT, NGINX]
    more_cores = [ALL_CORES] if (os.cpu_count() or 1) > 2 else []
    return Plan(
        requests=(
            _side_by_side("upload", 226, subjects + more_cores),
            _side_by_side("upload", 904, subjects),
            _side_by_side("upload", 4520, subjects),
            _side_by_side("receive", 226, subjects),
            _side_by_side("receive", 904, subjects),
            _side_by_side("receive", 4520, subjects),
        ),
        large=tuple(
            _side_by_side(kind, series, [TELEMETER, VMAGENT, NGINX])
            for kind in KINDS
            for series in (15_000, 50_000)
        ),
        rules=tuple(
            tuple(
                Case(TELEMETER, kind, SERIES_FOR_RULES, rules)
                for rules in (25, 100, RULES, 2000, 5000)
            )
            for kind in KINDS
        ),
        rounds=3,
        seconds=1.0,
        warm_up_seconds=0.5,
        agent_rounds=15,
    )


def quick() -> Plan:
    """Return a run that shows that everything works, and no more: about a minute."""
    subjects = [TELEMETER, TWO_WORKERS, FALLBACK, VMAGENT, NGINX]
    return Plan(
        requests=tuple(_side_by_side(kind, 226, subjects) for kind in KINDS),
        large=tuple(_side_by_side(kind, 15_000, [TELEMETER]) for kind in KINDS),
        rules=tuple(
            tuple(Case(TELEMETER, kind, SERIES_FOR_RULES, rules) for rules in (25, 5000))
            for kind in KINDS
        ),
        rounds=2,
        seconds=0.3,
        warm_up_seconds=0.2,
        agent_rounds=2,
    )
