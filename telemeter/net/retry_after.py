"""Retry-After (RFC 9110, section 10.2.3): a number of seconds, or a date."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from twisted.web.http_headers import Headers

from telemeter.loop.clocks import Wall

_SECONDS: Final = re.compile(r"[0-9]+")
_LONGEST: Final = 64
#: More digits than this are longer than anybody waits.
_MOST_DIGITS: Final = 12
#: The three forms of a date (RFC 9110, section 5.6.7): IMF-fixdate, that of RFC 850, asctime's.
_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4}"
)


def retry_after(headers: Headers) -> str | None:
    """Return the value of Retry-After as it came; None: there is none, or it is malformed."""
    fields = headers.getRawHeaders(b"Retry-After")
    if not fields or len(fields[0]) > _LONGEST:
        return None
    value = fields[0].decode("latin-1").strip(" \t")
    return value if _SECONDS.fullmatch(value) or http_date(value) is not None else None


def retry_after_seconds(headers: Headers, now: Wall) -> float | None:
    """Return how many seconds from now to try again; None: the answer does not say.

    A date counts from the answer's own Date, if there is one: then the clocks need not agree.

    Args:
        headers: those of the answer.
        now: what the wall clock shows.
    """
    value = retry_after(headers)
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value) if len(value) <= _MOST_DIGITS else float(10**_MOST_DIGITS)
    dates = headers.getRawHeaders(b"Date", [b""])
    said = http_date(dates[0].decode("latin-1").strip(" \t"))
    until = http_date(value)
    assert until is not None
    return max(0.0, until - (now if said is None else said))


def http_date(value: str) -> Wall | None:
    """Return a date of HTTP in seconds since the epoch; None: it is none."""
    if not _DATE.fullmatch(value):
        return None
    try:
        # A leap second is legal, and unknown to Python.
        moment = parsedate_to_datetime(value.replace(":60 ", ":59 "))
    except ValueError:
        return None
    return Wall(moment.replace(tzinfo=UTC).timestamp())
