"""Tells the record of the fleet what requests came to."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from twisted.internet.interfaces import IReactorTime

from telemeter.fleet.attempt import (
    MAX_AGENT,
    MAX_EXAMPLE,
    MAX_EXAMPLES,
    MAX_ID,
    MAX_REASON,
    Attempt,
    Path,
    Recorder,
    clip,
)
from telemeter.metrics.upload import Converted
from telemeter.metrics.write import Written
from telemeter.web.site import Request

_PATHS: Final = {path.name.lower(): path for path in Path}
_AUTHORIZE: Final = Path.AUTHORIZE
#: So much of a header is looked at: a character more than is shown may be cut in two.
_MAX_RAW_AGENT: Final = MAX_AGENT + 4


class AttemptObserver:
    """An observer of a site: hands on what clusters attempted."""

    def __init__(self, recorder: Recorder, clock: IReactorTime) -> None:
        self._recorder = recorder
        self._clock = clock

    def __call__(self, request: Request, code: int, seconds: float) -> None:
        path = None if request.route is None else _PATHS.get(request.route.name)
        if path is None or (code < 400 and path is _AUTHORIZE):
            return
        notes, facts = request.notes, request.facts
        cluster = str(notes.get("cluster", "")).encode("utf-8", "replace")
        agent = request.requestHeaders.getRawHeaders(b"user-agent")
        attempt = Attempt(
            cluster if len(cluster) <= MAX_ID else b"",
            self._clock.seconds(),
            path,
            code,
            seconds,
            "verified" in facts,
            b"" if code < 400 else clip(str(notes.get("reason", "")), MAX_REASON),
            _clipped_agent(agent[-1][:_MAX_RAW_AGENT]) if agent else b"",
            facts.get("expires", 0.0),
        )
        result = facts.get("result")
        if result is not None:
            _measure(attempt, result)
        self._recorder.record(attempt)


@lru_cache(256)
def _clipped_agent(header: bytes) -> bytes:
    """A User-Agent as it is shown; there are few."""
    return clip(header.decode("utf-8", "replace"), MAX_AGENT)


def _measure(attempt: Attempt, result: Converted | Written) -> None:
    """Take over the counts of a conversion."""
    attempt.measured = True
    attempt.received = result.received
    attempt.kept = result.series
    attempt.dropped = result.dropped
    attempt.duplicates = result.duplicates
    if isinstance(result, Converted) and result.newest_ms:
        attempt.drift = round(result.newest_ms / 1000 - attempt.at + attempt.seconds)
    if result.dropped_examples:
        attempt.examples = tuple(
            each for each in result.dropped_examples if len(each) <= MAX_EXAMPLE
        )[:MAX_EXAMPLES]
