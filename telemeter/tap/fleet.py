"""The record of the fleet, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
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
#: ... of which as many fit into one as are the largest, ...
_MAX_BATCH: Final = MAX_REPORT // MAX_ENCODED
#: ... and how many seconds an attempt waits for others.
_BATCH_SECONDS: Final = 0.5
#: A cluster is silent that has missed so many intervals.
_MISSED_INTERVALS: Final = 3


class Fleet:
    """The record and what shows it; nothing of both with `--fleet-max-clusters 0`.

    Attributes:
        record: takes attempts; None: there is none.
    """

    def __init__(self, options: Options, reactor: Any) -> None:
        """Make both.

        Args:
            options: the flags.
            reactor: tells the time, and calls later.
        """
        self.record: FleetRecord | None = None
        self._whitelist: Whitelist = options.files.whitelist
        if options["fleet-max-clusters"]:
            silent_after = max(SILENT_AFTER, _MISSED_INTERVALS * options["ratelimit"])
            self.record = FleetRecord(options["fleet-max-clusters"], silent_after)
            self._api = FleetApi(self.record, reactor, lambda: self._whitelist)
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
        if self.record is not None:
            for attempt in decode_attempts(report):
                self.record.record(attempt)

    def stop(self) -> None:
        """End what would not end by itself."""
        if self.record is not None:
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
    """Takes attempts, and reports them together to the process that has the record."""

    def __init__(self, report: Callable[[str, bytes], Deferred[None]], clock: Any) -> None:
        """Begin with nothing.

        Args:
            report: tells that process something of a kind.
            clock: calls later.
        """
        self._report = report
        self._clock = clock
        self._attempts: list[Attempt] = []

    def record(self, attempt: Attempt) -> None:
        """Take an attempt; it is reported within a second."""
        self._attempts.append(attempt)
        if len(self._attempts) == 1:
            self._clock.callLater(_BATCH_SECONDS, self.send)
        elif len(self._attempts) >= _MAX_BATCH:
            self.send()

    def send(self) -> None:
        """Report what there is. What cannot be reported is forgotten: it is only for the eye."""
        attempts, self._attempts = self._attempts, []
        if attempts:
            self._report(ATTEMPTS, encode_attempts(attempts)).addErrback(_not_reported)


def _not_reported(failure: Failure) -> None:
    log.warn("what some clusters attempted will not show: {why}", why=failure.value)
