"""/api/v1/events: what changes in the fleet, as Server-Sent Events."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from telemeter.fleet.record import FleetRecord
from telemeter.fleet.render import minute_value, row_value, totals_value
from telemeter.loop.clocks import Elapsed, Moment, WallClock, moment
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.web.fleet_api import EVENTS, dump
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route

#: How many readers there may be at once.
MAX_STREAMS: Final = 32
#: How many clusters an event names at most.
MAX_CHANGED: Final = 100
#: The seconds between two looks for changes, and between two signs of life.
INTERVAL: Final = 1.0
HEARTBEAT: Final = 15.0

#: A wall clock that jumps by more than so many seconds was set.
_CLOCK_WAS_SET: Final = 1.0
#: Tells a reader that was too slow to ask for the whole page again.
_MISSED: Final = b"event: missed\ndata: {}\n\n"

log = Logger()


@implementer(IPushProducer)
class _Stream:
    """One reader.

    Attributes:
        done: fires when there is nothing more to say to it.
    """

    def __init__(self, request: Any, now: Elapsed, patience: float) -> None:
        self._patience = patience
        self.done: Deferred[None] = Deferred()
        self._has_missed = False
        self._request = request
        self._heard = now
        self._paused_at: Elapsed | None = None
        self._now = now

    def pauseProducing(self) -> None:
        if self._paused_at is None:
            self._paused_at = self._now

    def resumeProducing(self) -> None:
        self._paused_at = None

    def stopProducing(self) -> None:
        self.end()

    def end(self) -> None:
        """Say no more."""
        if not self.done.called:
            self.done.callback(None)

    def tick(self, now: Elapsed, event: bytes | None) -> None:
        """Send an event, or a sign of life if there was none for a while."""
        self._now = now
        if self._paused_at is not None:
            self._has_missed = self._has_missed or event is not None
            if now - self._paused_at >= self._patience:
                # To lose it would be to wait until the reader has taken what there is for it.
                self._request.transport.abortConnection()
                self.end()
        elif self._has_missed:
            self._has_missed = False
            self._send(_MISSED + (event or b""))
        elif event is not None:
            self._send(event)
        elif now - self._heard >= HEARTBEAT:
            self._send(b":\n\n")

    def _send(self, data: bytes) -> None:
        self._heard = self._now
        self._request.write(data)


class Events:
    """The endpoint. One look at the record a second serves all readers; without readers none."""

    def __init__(
        self,
        record: FleetRecord,
        clock: IReactorTime,
        wall: WallClock,
        patience: float = TIMEOUTS.reader,
    ) -> None:
        """Make the endpoint.

        Args:
            record: what to tell of.
            clock: tells ages, and calls later.
            wall: tells the time of day.
            patience: for how many seconds a reader may take nothing, until it is hung up on.
        """
        self._patience = patience
        self._record = record
        self._clock = clock
        self._wall = wall
        self._streams: list[_Stream] = []
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock
        self._told = 0
        self._minute = 0
        self._date = 0.0
        self._stopping = False

    def route(self) -> Route:
        return Route(EVENTS, self.get, ("GET",), listed=False, timed=False)

    async def get(self, request: Any) -> bytes:
        """Tell of changes until the reader goes away or the server stops."""
        if self._stopping or len(self._streams) >= MAX_STREAMS:
            what = (
                "the server stops"
                if self._stopping
                else f"there are {MAX_STREAMS} readers, a fixed limit"
            )
            raise Refused(503, f"no more events: {what}", {"Retry-After": "30"})
        request.setHeader("Content-Type", "text/event-stream")
        request.setHeader("Cache-Control", "no-store")
        now = moment(self._clock, self._wall)
        stream = _Stream(request, now.elapsed, self._patience)
        request.registerProducer(stream, True)
        if not self._streams:
            self._told = self._record.version
            self._minute = self._record.minute_of(now.elapsed)
            self._date = now.date(0)
        self._streams.append(stream)
        stream.tick(now.elapsed, b"retry: 5000\n" + self._event(now, ()))
        if not self._loop.running:
            self._loop.start(INTERVAL, now=False).addErrback(self._broke)
        try:
            await stream.done
        finally:
            self._streams.remove(stream)
            if not self._streams and self._loop.running:
                self._loop.stop()
        request.unregisterProducer()
        return b""

    def stop(self) -> None:
        """End all streams, and begin no more."""
        self._stopping = True
        for stream in list(self._streams):
            stream.end()

    def _broke(self, failure: Any) -> None:
        log.failure("events have stopped", failure)
        for stream in list(self._streams):
            stream.end()

    def _look(self) -> None:
        """Send what has changed, once for all streams."""
        now = moment(self._clock, self._wall)
        minute = self._record.minute_of(now.elapsed)
        event = None
        if self._record.version != self._told or minute != self._minute:
            slots = tuple(islice(self._record.changed_since(self._told), MAX_CHANGED + 1))
            event = self._event(now, slots)
            self._told, self._minute = self._record.version, minute
        if abs(now.date(0) - self._date) > _CLOCK_WAS_SET:
            # All dates that readers have are wrong by now.
            self._date = now.date(0)
            event = _MISSED + (event or b"")
        for stream in list(self._streams):
            stream.tick(now.elapsed, event)

    def _event(self, now: Moment, slots: tuple[int, ...]) -> bytes:
        """Return an event: the totals, and the clusters that have changed."""
        totals = self._record.totals(now)
        value = {
            "now": now.wall,
            "fleet": totals_value(totals, self._record.recent),
            "minute": minute_value(*totals.minutes[-1]),
            "changed": [row_value(self._record.row(slot, now)) for slot in slots[:MAX_CHANGED]],
            "more": len(slots) > MAX_CHANGED,
        }
        return b"event: fleet\ndata: " + dump(value) + b"\n\n"
