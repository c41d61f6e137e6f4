"""Counters of refusals by reason: the words, which all endpoints share, and those of /upload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import Counter

from telemeter.observe.outcome import Outcome
from telemeter.web.site.access_log import CLIENT_WENT_AWAY

UNAUTHORIZED: Final = "unauthorized"
UNAVAILABLE: Final = "unavailable"
CONTENT: Final = "content"
SIZE: Final = "size"
MALFORMED: Final = "malformed"
TOO_EARLY: Final = "too_early"
TOO_SLOW: Final = "too_slow"
UPSTREAM: Final = "upstream"
GONE: Final = "gone"
OTHER: Final = "other"

_BY_STATUS: Final = {
    400: MALFORMED,
    401: UNAUTHORIZED,
    403: UNAUTHORIZED,
    408: TOO_SLOW,
    413: SIZE,
    415: CONTENT,
    429: TOO_EARLY,
    CLIENT_WENT_AWAY: GONE,
}


def refusal_counter(name: str, documentation: str, reasons: Sequence[str]) -> Counter:
    """Return a counter by reason that shows each reason from the start."""
    counter = Counter(name, documentation, ["reason"])
    for reason in reasons:
        counter.labels(reason)
    return counter


UPLOADS_REFUSED: Final = refusal_counter(
    "telemeter_upload_refused_total",
    "Uploads refused, by reason.",
    sorted({*_BY_STATUS.values(), UNAVAILABLE, UPSTREAM, OTHER}),
)


def count_refused_upload(outcome: Outcome) -> None:
    """Count an upload that was refused, whatever refused it; observes a site's requests."""
    if outcome.status >= 400 and outcome.path == "upload":
        UPLOADS_REFUSED.labels(_reason_of(outcome)).inc()


def _reason_of(outcome: Outcome) -> str:
    if outcome.status >= 500:
        return UNAVAILABLE
    if outcome.kept and outcome.status != CLIENT_WENT_AWAY:
        return UPSTREAM  # it was in order, so the status is what the upstream said
    return _BY_STATUS.get(outcome.status, OTHER)
