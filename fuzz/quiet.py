"""Silence: what is logged of hostile input is no news here."""

from __future__ import annotations

from twisted.logger import globalLogBeginner


def begin() -> None:
    """Have everything that is logged thrown away."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
