"""Tells the record of the fleet what requests came to."""

from __future__ import annotations

from typing import Any, Final

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
from telemeter.web.site import Request

_PATHS: Final = {path.name.lower(): path for path in Path}


class AttemptObserver:
    """An observer of a site: hands on what clusters attempted."""

    def __init__(self, recorder: Recorder, clock: IReactorTime) -> None:
        self._recorder = recorder
        self._clock = clock

    def __call__(self, request: Request, code: int, seconds: float) -> None:
        path = _PATHS.get(request.route.name if request.route is not None else "")
        if path is None or (path is Path.AUTHORIZE and code < 400):
            return
        notes, facts = request.notes, request.facts
        cluster = str(notes.get("cluster", "")).encode("utf-8", "replace")
        attempt = Attempt(
            cluster if len(cluster) <= MAX_ID else b"",
            self._clock.seconds(),
            path,
            code,
            seconds,
            verified="verified" in facts,
            expires=float(facts.get("expires", 0.0)),
        )
        if code >= 400:
            attempt.reason = clip(str(notes.get("reason", "")), MAX_REASON)
        agent = request.requestHeaders.getRawHeaders(b"user-agent")
        if agent:
            attempt.agent = clip(agent[-1].decode("utf-8", "replace"), MAX_AGENT)
        if "result" in facts:
            _measure(attempt, facts["result"])
            newest = getattr(facts["result"], "newest_ms", 0)
            if newest:
                attempt.drift = round(newest / 1000 - attempt.at + seconds)
        self._recorder.record(attempt)


def _measure(attempt: Attempt, result: Any) -> None:
    """Take over the counts of a `Converted` or a `Written`."""
    attempt.measured = True
    attempt.received = result.received
    attempt.kept = result.series
    attempt.dropped = result.dropped
    attempt.duplicates = result.duplicates
    examples = getattr(result, "dropped_examples", ())
    if examples:
        attempt.examples = tuple(each for each in examples if len(each) <= MAX_EXAMPLE)[
            :MAX_EXAMPLES
        ]
