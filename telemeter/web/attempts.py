"""Tells the record of the fleet what requests came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http_headers import Headers

from telemeter.convert.upload import Converted
from telemeter.convert.write import Written
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
from telemeter.loop.clocks import NO_DATE, Moment, Wall, WallClock, moment
from telemeter.web.site.site import Request

_PATHS: Final = {path.name.lower(): path for path in Path}
_AUTHORIZE: Final = Path.AUTHORIZE
#: So much of a header is looked at: a character more than is shown may be cut in two.
_MAX_RAW_AGENT: Final = MAX_AGENT + 4
#: Of a request: when it was over, its handler, the status, how many seconds it took, its notes, its
#: facts and its headers.
_Over: TypeAlias = tuple[Moment, str, int, float, Mapping[str, object], Mapping[str, Any], Headers]


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
        self._over: list[_Over] = []
        self._call: IDelayedCall | None = None

    def __call__(self, request: Request, code: int, seconds: float) -> None:
        """Take note of a request that is over; it is handed on within half a second."""
        if request.route is None:
            return
        self._over.append(
            (
                moment(self._clock, self._wall),
                request.route.name,
                code,
                seconds,
                request.notes,
                request.facts,
                request.requestHeaders,
            )
        )
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


def _attempt_of(
    over: Moment,
    handler: str,
    code: int,
    seconds: float,
    notes: Mapping[str, object],
    facts: Mapping[str, Any],
    headers: Headers,
) -> Attempt | None:
    """Return what was attempted, if it was; see `_Over`."""
    path = _PATHS.get(handler)
    if path is None or (code < 400 and path is _AUTHORIZE):
        return None
    cluster = str(notes.get("cluster", "")).encode("utf-8", "replace")
    agent = headers.getRawHeaders(b"user-agent")
    attempt = Attempt(
        cluster if len(cluster) <= MAX_ID else b"",
        over.elapsed,
        path,
        code,
        seconds,
        "verified" in facts,
        b"" if code < 400 else clip(str(notes.get("reason", "")), MAX_REASON),
        _clipped_agent(agent[-1][:_MAX_RAW_AGENT]) if agent else b"",
        facts.get("expires", NO_DATE),
    )
    result = facts.get("result")
    if result is not None:
        _measure(attempt, result, Wall(over.wall - seconds))
    return attempt


@lru_cache(256)
def _clipped_agent(header: bytes) -> bytes:
    """Return a User-Agent as it is shown; there are few."""
    return clip(header.decode("utf-8", "replace"), MAX_AGENT)


def _measure(attempt: Attempt, result: Converted | Written, began: Wall) -> None:
    """Take over the counts of a conversion, of a request that began then."""
    attempt.measured = True
    attempt.received = result.received
    attempt.kept = result.series
    attempt.dropped = result.dropped
    attempt.duplicates = result.duplicates
    if isinstance(result, Converted) and result.newest_ms:
        attempt.drift = round(result.newest_ms / 1000 - began)
    if result.dropped_examples:
        attempt.examples = tuple(
            each for each in result.dropped_examples if len(each) <= MAX_EXAMPLE
        )[:MAX_EXAMPLES]
