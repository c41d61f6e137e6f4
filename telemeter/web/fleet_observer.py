"""The observer of a site that tells the record of the fleet what became of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from telemeter.fleet.attempt import (
    MAX_AGENT,
    MAX_EXAMPLE,
    MAX_EXAMPLES,
    MAX_ID,
    MAX_REASON,
    Attempt,
    Path,
    clip,
)
from telemeter.loop.clocks import Moment, Wall, WallClock, moment
from telemeter.observe.outcome import Outcome

_PATHS: Final = {path.name.lower(): path for path in Path}
_AUTHORIZE: Final = Path.AUTHORIZE
#: So much of a header is looked at: a character more than is shown may be cut in two.
_MAX_RAW_AGENT: Final = MAX_AGENT + 4
#: For how many seconds a request waits for others.
_WAIT: Final = 0.5


class AttemptObserver:
    """An observer of a site: hands on what clusters attempted, that of several requests together.

    Between two requests the processor has everything else in its caches, so all that can wait does.
    """

    def __init__(
        self,
        take: Callable[[Sequence[Attempt]], object],
        clock: IReactorTime,
        wall: WallClock,
        most: int,
    ) -> None:
        """Make one that has seen nothing yet.

        Args:
            take: takes some attempts.
            clock: tells when requests were over, and calls later.
            wall: tells by how much the clocks of clusters are off.
            most: how many attempts it takes at once.
        """
        self._take = take
        self._clock = clock
        self._wall = wall
        self._most = most
        self._over: list[tuple[Moment, Outcome]] = []
        self._call: IDelayedCall | None = None

    def __call__(self, outcome: Outcome) -> None:
        """Take the outcome of a request that is over; it is handed on within half a second."""
        if not outcome.path:
            return
        self._over.append((moment(self._clock, self._wall), outcome))
        if len(self._over) >= self._most:
            self.send()
        elif self._call is None:
            self._call = self._clock.callLater(_WAIT, self._in_time)

    def send(self) -> None:
        """Hand on what there is."""
        over, self._over = self._over, []
        attempts = [attempt for each in over if (attempt := _attempt_of(*each)) is not None]
        if attempts:
            self._take(attempts)

    def stop(self) -> None:
        """Hand on what there is, and call no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.send()

    def _in_time(self) -> None:
        self._call = None
        self.send()


def _attempt_of(over: Moment, outcome: Outcome) -> Attempt | None:
    """Return what was attempted, if it was something that the record shows.

    Args:
        over: when the request was over.
        outcome: what became of it.
    """
    path = _PATHS.get(outcome.path)
    if path is None or (outcome.status < 400 and path is _AUTHORIZE):
        return None
    cluster = (outcome.cluster or "").encode("utf-8", "replace")
    headers = outcome.headers
    agent = None if headers is None else headers.getRawHeaders(b"user-agent")
    attempt = Attempt(
        cluster if len(cluster) <= MAX_ID else b"",
        over.elapsed,
        path,
        outcome.status,
        outcome.seconds,
        outcome.verified,
        b"" if outcome.status < 400 else clip(outcome.reason, MAX_REASON),
        _clipped_agent(agent[-1][:_MAX_RAW_AGENT]) if agent else b"",
        outcome.expires,
    )
    if outcome.received is not None:
        _measure(attempt, outcome, outcome.received, Wall(over.wall - outcome.seconds))
    return attempt


@lru_cache(256)
def _clipped_agent(header: bytes) -> bytes:
    """Return a User-Agent as it is shown; there are few."""
    return clip(header.decode("utf-8", "replace"), MAX_AGENT)


def _measure(attempt: Attempt, outcome: Outcome, received: int, began: Wall) -> None:
    """Take over the counts of a conversion, of a request that began then."""
    attempt.measured = True
    attempt.received = received
    attempt.kept = outcome.kept
    attempt.dropped = outcome.dropped
    attempt.duplicates = outcome.duplicates
    if outcome.newest_ms:
        attempt.drift = round(outcome.newest_ms / 1000 - began)
    if outcome.examples:
        attempt.examples = tuple(each for each in outcome.examples if len(each) <= MAX_EXAMPLE)[
            :MAX_EXAMPLES
        ]
