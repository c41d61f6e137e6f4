"""The record of the fleet, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from telemeter.fleet.attempt import MAX_ENCODED, Attempt, decode_attempts, encode_attempts
from telemeter.fleet.record import SILENT_AFTER, FleetRecord
from telemeter.fleet.series import SeriesSource
from telemeter.metrics.whitelist import Whitelist
from telemeter.tap.server_options import Options
from telemeter.tap.workers.control import MAX_REPORT
from telemeter.web.events import Events
from telemeter.web.fleet import CLUSTERS, FLEET, FleetApi
from telemeter.web.health import index_route
from telemeter.web.page import html_sender, page_routes
from telemeter.web.routing import Route

log = Logger()

#: The kind of reports that are encoded attempts, ...
ATTEMPTS: Final = "attempts"
#: ... of which as many fit into one as are the largest.
_MAX_REPORTED: Final = MAX_REPORT // MAX_ENCODED
#: How many attempts are recorded together, in well under a millisecond, ...
_MAX_BATCH: Final = 64
#: ... and how many seconds an attempt waits for others.
_BATCH_SECONDS: Final = 0.5
#: A cluster is silent that has missed so many intervals.
_MISSED_INTERVALS: Final = 3


class Fleet:
    """The record and what shows it; nothing of both with `--fleet-max-clusters 0`.

    Attributes:
        record: what is known of clusters; None: there is none.
        recorder: takes attempts for the record; None: there is none.
    """

    def __init__(self, options: Options, reactor: Any) -> None:
        """Make both.

        Args:
            options: the flags.
            reactor: tells the time, and calls later.
        """
        self.record: FleetRecord | None = None
        self.recorder: Batches | None = None
        self._whitelist: Whitelist = options.files.whitelist
        if options["fleet-max-clusters"]:
            silent_after = max(SILENT_AFTER, _MISSED_INTERVALS * options["ratelimit"])
            self.record = FleetRecord(options["fleet-max-clusters"], silent_after)
            self.recorder = Batches(self._take_all, reactor, _MAX_BATCH)
            self._api = FleetApi(
                self.record, reactor, lambda: self._whitelist, settle=self.recorder.send
            )
            self._events = Events(self.record, reactor)

    def use(self, whitelist: Whitelist) -> None:
        """Explain what was dropped by other rules from now on."""
        self._whitelist = whitelist

    def show(self, series: SeriesSource) -> None:
        """Show series of clusters from there, too."""
        if self.record is not None:
            self._api.series = series

    def take(self, worker: int, report: bytes) -> None:
        """Take note of what clusters attempted at a worker; raises `BadInputError`."""
        self._take_all(decode_attempts(report))

    def _take_all(self, attempts: Sequence[Attempt]) -> None:
        if self.record is not None:
            for attempt in attempts:
                self.record.record(attempt)

    def stop(self) -> None:
        """End what would not end by itself."""
        if self.recorder is not None:
            self.recorder.stop()
            self._events.stop()

    def routes(self, paths: Sequence[str]) -> list[Route]:
        """The index with these paths and ours; page and API."""
        if self.record is None:
            return [index_route(paths)]
        return [
            index_route([*paths, FLEET, CLUSTERS], html_sender()),
            *page_routes(),
            *self._api.routes(),
            self._events.route(),
        ]


class Batches:
    """Takes attempts, and hands them on together.

    To record one between two requests takes three times as long as one behind the other, because
    the processor has everything else in its caches.
    """

    def __init__(
        self, deliver: Callable[[Sequence[Attempt]], object], clock: Any, most: int
    ) -> None:
        """Begin with nothing.

        Args:
            deliver: takes several attempts.
            clock: calls later.
            most: how many it takes.
        """
        self._deliver = deliver
        self._clock = clock
        self._most = most
        self._attempts: list[Attempt] = []
        self._call: IDelayedCall | None = None

    def record(self, attempt: Attempt) -> None:
        """Take an attempt; it is handed on within half a second."""
        self._attempts.append(attempt)
        if len(self._attempts) >= self._most:
            self.send()
        elif self._call is None:
            self._call = self._clock.callLater(_BATCH_SECONDS, self._in_time)

    def send(self) -> None:
        """Hand on what there is."""
        attempts, self._attempts = self._attempts, []
        if attempts:
            self._deliver(attempts)

    def stop(self) -> None:
        """Hand on what there is, and call no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.send()

    def _in_time(self) -> None:
        self._call = None
        self.send()


def reporter(report: Callable[[str, bytes], Deferred[None]], clock: Any) -> Batches:
    """What takes attempts and reports them to the process that has the record.

    What cannot be reported is forgotten: it is only for the eye.

    Args:
        report: tells that process something of a kind.
        clock: calls later.
    """

    def deliver(attempts: Sequence[Attempt]) -> None:
        report(ATTEMPTS, encode_attempts(attempts)).addErrback(_not_reported)

    return Batches(deliver, clock, _MAX_REPORTED)


def _not_reported(failure: Failure) -> None:
    log.warn("what some clusters attempted will not show: {why}", why=failure.value)
