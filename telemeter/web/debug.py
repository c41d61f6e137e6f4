"""/debug/...: for whoever looks after a running daemon; on internal listeners only."""

from __future__ import annotations

import math

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from telemeter.observe.profile import MAX_SECONDS, BusyError, Profiler, stacks
from telemeter.web.site.query import parse_fields, query_of
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route

_INDEX = f"""/debug/stacks               where every thread is at this moment
/debug/profile?seconds=5    where the reactor's time goes, for up to {MAX_SECONDS:.0f} seconds
"""


def debug_routes(clock: IReactorTime) -> list[Route]:
    """Return the routes."""
    profiler = Profiler(clock)

    def index(request: IRequest) -> bytes:
        return _INDEX.encode()

    def show_stacks(request: IRequest) -> bytes:
        return stacks().encode()

    async def profile(request: IRequest) -> bytes:
        given = dict(parse_fields(query_of(request), errors="replace"))
        try:
            seconds = float(given.get("seconds") or "5")
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MAX_SECONDS:
            raise Refused(400, f"seconds: expected a number above 0, {MAX_SECONDS:.0f} at most")
        try:
            return (await profiler.profile(seconds)).encode()
        except BusyError:
            raise Refused(409, "a profile is being taken already") from None

    return [
        Route("/debug/", index),
        Route("/debug/stacks", show_stacks, listed=False),
        Route("/debug/profile", profile, listed=False, timed=False),
    ]
