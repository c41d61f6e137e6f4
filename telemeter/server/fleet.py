"""The record of the fleet, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from telemeter.config.server import ServerConfig
from telemeter.fleet.attempt import Attempt, decode_attempts, encode_attempts
from telemeter.fleet.database import FleetDatabase
from telemeter.fleet.record import SILENT_AFTER, FleetRecord
from telemeter.fleet.render import Value
from telemeter.loop.clocks import WallClock, moment
from telemeter.loop.reactor import IDaemonReactor
from telemeter.loop.threads import DaemonThread
from telemeter.samples.stored_series import SeriesSource
from telemeter.samples.whitelist import Whitelist
from telemeter.server.fleet_keeper import FleetKeeper
from telemeter.server.workers.control import MAX_REPORT
from telemeter.web.cluster_metrics import cluster_metrics_route
from telemeter.web.fleet_api import FleetApi
from telemeter.web.fleet_events import Events
from telemeter.web.fleet_metrics import show_fleet
from telemeter.web.fleet_observer import AttemptObserver
from telemeter.web.fleet_page import html_sender, page_routes
from telemeter.web.site.routing import Route

log = Logger()

#: The kind of reports that are encoded attempts.
ATTEMPTS: Final = "attempts"
#: How many are recorded together, in well under a millisecond, ...
_MAX_RECORDED: Final = 64
#: ... and how many are reported together: a report takes as long as a hundred attempts.
_MAX_REPORTED: Final = 256
#: How long reports of workers wait for those of others, in seconds, and how many attempts may wait.
_ORDER_SECONDS: Final = 1.0
_MOST_REPORTED: Final = 20_000
#: A cluster is silent that has missed so many intervals.
_MISSED_INTERVALS: Final = 3


class Fleet:
    """The record and what shows it; nothing of both with `--fleet-max-clusters 0`.

    Attributes:
        record: what is known of clusters; None: there is none.
        observer: observes a site for the record; None: there is none.
        keeper: the service that keeps the record in a database; None: memory is all it has.
    """

    def __init__(self, config: ServerConfig, reactor: IDaemonReactor, wall: WallClock) -> None:
        """Make both.

        Args:
            config: the configuration.
            reactor: tells ages, and calls later, also from threads.
            wall: tells the time of day.
        """
        self.record: FleetRecord | None = None
        self.keeper: FleetKeeper | None = None
        self._reported: list[Attempt] = []
        self._later: IDelayedCall | None = None
        self._reactor = reactor
        self._wall = wall
        self.observer: AttemptObserver | None = None
        self._whitelist: Whitelist = config.samples.whitelist
        if config.fleet.max_clusters:
            silent_after = max(SILENT_AFTER, _MISSED_INTERVALS * config.ratelimit.seconds)
            now = moment(reactor, wall)
            self.record = FleetRecord(config.fleet.max_clusters, now, silent_after)
            self.keeper = _keeper_of(self.record, config, reactor, wall)
            self.observer = AttemptObserver(self._take_all, reactor, wall, _MAX_RECORDED)
            self._api = FleetApi(
                self.record,
                reactor,
                wall,
                lambda: self._whitelist,
                settle=self.observer.send,
                database=self._database_value,
            )
            self._cluster_metrics = cluster_metrics_route(
                self.record, reactor, wall, self.observer.send, config.timeouts.reader
            )
            self._events = Events(self.record, reactor, wall, config.timeouts.reader)

    def reload(self, whitelist: Whitelist) -> None:
        """Explain by other rules what was dropped, from now on."""
        self._whitelist = whitelist

    def show(self, series: SeriesSource) -> None:
        """Show series of clusters from there, too."""
        if self.record is not None:
            self._api.series = series

    def take(self, worker: int, report: bytes) -> None:
        """Take note of what clusters attempted at a worker; raises `BadInputError`.

        The next attempt of a cluster may have been made at another worker, whose report comes
        first. So they are recorded a little later, in the order in which they ended.
        """
        self._reported += decode_attempts(report)
        if len(self._reported) > _MOST_REPORTED:
            self._record_reported()
        elif self._later is None:
            self._later = self._reactor.callLater(_ORDER_SECONDS, self._record_reported)

    def _record_reported(self) -> None:
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._later = None
        reported, self._reported = self._reported, []
        self._take_all(sorted(reported, key=attrgetter("at")))

    def _take_all(self, attempts: Sequence[Attempt]) -> None:
        if self.record is not None:
            for attempt in attempts:
                self.record.record(attempt)

    def _database_value(self) -> Value | None:
        return None if self.keeper is None else {"behind_since": self.keeper.behind_since}

    def measure(self) -> None:
        """Show in the metrics how the fleet is."""
        if self.record is not None:
            show_fleet(self.record, moment(self._reactor, self._wall))

    def stop(self) -> None:
        """End what would not end by itself."""
        self._record_reported()
        if self.observer is not None:
            self.observer.stop()
            self._events.stop()

    def routes(self) -> list[Route]:
        """Return the routes of what the page consists of, and of its API."""
        if self.record is None:
            return []
        return [
            self._cluster_metrics,
            *self._api.routes(),
            self._events.route(),
            *page_routes(),
        ]

    def page(self) -> Callable[[IRequest], bytes] | None:
        """Return what answers with the page; None: there is none."""
        return None if self.record is None else html_sender()


def _keeper_of(
    record: FleetRecord, config: ServerConfig, reactor: IDaemonReactor, wall: WallClock
) -> FleetKeeper | None:
    """Return the service that keeps a record, if the configuration asks for one."""
    settings = config.fleet
    if not settings.database:
        return None
    return FleetKeeper(
        record,
        FleetDatabase(settings.database),
        reactor,
        wall,
        DaemonThread(reactor).run,
        flag=f"{config.program}: --fleet-database {f'sqlite:{settings.database}'!r}",
        retention=settings.retention,
    )


def reporter(
    report: Callable[[str, bytes], Deferred[None]], clock: IReactorTime, wall: WallClock
) -> AttemptObserver:
    """Return what reports attempts to the process that has the record.

    What cannot be reported is forgotten: it is only for the eye.

    Args:
        report: tells that process something of a kind.
        clock: tells when requests were over, and calls later.
        wall: tells by how much the clocks of clusters are off.
    """

    def take(attempts: Sequence[Attempt]) -> None:
        body = encode_attempts(attempts)
        if len(body) <= MAX_REPORT:
            report(ATTEMPTS, body).addErrback(_not_reported)
        else:
            middle = len(attempts) // 2
            take(attempts[:middle])
            take(attempts[middle:])

    return AttemptObserver(take, clock, wall, _MAX_REPORTED)


def _not_reported(failure: Failure) -> None:
    log.warn("what some clusters attempted will not show: {why}", why=failure.value)
