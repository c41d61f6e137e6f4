"""The keeper of the fleet's record: writes it behind into a database, and reads it at the start."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Final

from prometheus_client import Counter, Gauge
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from telemeter.fleet.database import (
    FleetDatabase,
    FleetDatabaseError,
    NotOurDatabaseError,
    SavedCluster,
    SavedMinute,
)
from telemeter.fleet.record import FleetRecord
from telemeter.fleet.totals import HISTORY
from telemeter.loop.clocks import Wall, WallClock, elapsed, moment
from telemeter.loop.services import StartError
from telemeter.loop.threads import Runner
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.loop.turns import turn

#: The seconds between two times that what has changed is written.
INTERVAL: Final = 20.0
#: How many clusters are gathered before others get their turn, which takes a millisecond or two.
_TOGETHER: Final = 500
#: How many are written in one transaction. They lie all over the table, so that a few write a page
#: each; of many, several share one, which takes half of the time.
WRITTEN_TOGETHER: Final = 10_000
#: Every so many times what is too old is forgotten, which reads the whole table.
_FORGET_EVERY: Final = 90
#: How many are forgotten before others get their turn.
_FORGOTTEN_AT_ONCE: Final = 500

ERRORS: Final = Counter(
    "telemeter_fleet_database_errors_total",
    "Times that the database of the fleet's record did not take what was to be written. Nothing is "
    "lost by that but what a restart would find.",
)
SAVED: Final = Gauge(
    "telemeter_fleet_database_saved_timestamp_seconds",
    "Up to when the fleet's record is in its database; 0: there is no database.",
    multiprocess_mode="livemax",
)

log = Logger()


#: What `FleetDatabase.load` returns.
Loaded = tuple[list[SavedCluster], list[SavedMinute]]


class FleetKeeper(Service):
    """The service that keeps a record in a database.

    Memory has all of the record, and answers for it; so a database that is slow or away delays
    nothing and loses nothing, unless the server ends before it is there again.

    Attributes:
        behind_since: up to when the record is in the database, if it should be further; None: it is
            not behind.
    """

    def __init__(
        self,
        record: FleetRecord,
        database: FleetDatabase,
        clock: IReactorTime,
        wall: WallClock,
        run: Runner,
        *,
        flag: str,
        retention: float,
        patience: float = TIMEOUTS.fleet_stop,
    ) -> None:
        """Make it; nothing is read yet.

        Args:
            record: what it keeps.
            database: where.
            clock: calls again and again.
            wall: tells up to when it is kept.
            run: calls the database, one call after the other.
            flag: what messages begin with: the program, the flag and its value.
            retention: after how many seconds without a word a cluster is forgotten.
            patience: how many seconds a stop has for the disk.
        """
        self._patience = patience
        self.behind_since: Wall | None = None
        self._record = record
        self._database = database
        self._clock = clock
        self._wall = wall
        self._run = run
        self._flag = flag
        self._retention = retention
        self._loop = LoopingCall(self._keep)
        self._loop.clock = clock
        self._under_way: Deferred[None] | None = None
        self._good = wall.now()
        self._rounds = 0
        self._minute = 0  # the last one that was written

    def startService(self) -> None:
        """Read the record, before any cluster is answered.

        Raises:
            StartError: the file must not be used. One that cannot be used is told of, and tried
                again: clusters need the server more than people need its page.
        """
        super().startService()
        self._record.keep_track()
        try:
            restored = sum(self._restore(self._open()))
            log.info("the fleet's record is read", clusters=restored)
        except NotOurDatabaseError as error:
            self._database.close()
            raise StartError(f"{self._flag}: {error}") from None
        except FleetDatabaseError as error:
            self._failed(error)
        self._loop.start(INTERVAL, now=False).addErrback(self._broke)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        try:
            # A round that is under way is waited for: it has taken what it has not written yet.
            await Deferred.fromCoroutine(self._write_and_close()).addTimeout(
                self._patience, self._clock
            )
        except (LateError, CancelledError):
            log.error(
                "the fleet's record was not written to its end, the disk did not answer",
                seconds=self._patience,
            )

    async def _write_and_close(self) -> None:
        if self._under_way is not None:
            await self._under_way
        await self._keep()
        await self._run(self._database.close)

    def _open(self) -> Loaded:
        """Open the database, and return what is in it; may wait for the disk.

        Raises:
            NotOurDatabaseError: the file must not be used.
            FleetDatabaseError: it cannot be. Then it is closed, to be opened and read once more.
        """
        aside = self._database.open()
        if aside:
            log.error("the fleet's record was damaged, and is begun anew", set_aside=aside)
        now = moment(self._clock, self._wall)
        minute = self._record.minute_of(now.elapsed)
        try:
            return self._database.load(
                now.wall - self._retention, self._record.max_clusters, minute - HISTORY
            )
        except FleetDatabaseError:
            self._database.close_database()
            raise

    def _restore(self, loaded: Loaded) -> Iterator[int]:
        """Take up what was read, in steps of a few milliseconds; each says how many it took."""
        clusters, minutes = loaded
        self._record.restore_minutes(minutes)
        for begin in range(0, len(clusters), _TOGETHER):
            some = clusters[begin : begin + _TOGETHER]
            yield self._record.restore(some, elapsed(self._clock))

    def _keep(self) -> Deferred[None]:
        """Write what has changed; never fails."""
        self._under_way = done = Deferred.fromCoroutine(self._round())
        return done

    async def _round(self) -> None:
        began = self._wall.now()
        try:
            await self._forget()
            await self._reopen()
            await self._write()
        except NotOurDatabaseError as error:
            self._failed(FleetDatabaseError(str(error)))
        except FleetDatabaseError as error:
            if error.is_of_database:  # what is wrong with it is looked for when it is opened
                await self._run(self._database.close_database)
            self._failed(error)
        else:
            if self.behind_since is not None:
                log.info("the fleet's record is written again")
            self.behind_since = None
            self._good = began
            SAVED.set(began)

    async def _reopen(self) -> None:
        """Open the database, if it could not be opened or read, or something was wrong with it."""
        if self._database.is_open:
            return
        loaded = await self._run(self._open)
        self._record.keep_track()  # whatever it holds, all that is known goes into it
        self._minute = 0
        for _ in self._restore(loaded):
            await turn(self._clock)

    async def _write(self) -> None:
        record, database = self._record, self._database
        minutes = record.saved_minutes(elapsed(self._clock), self._minute)
        await self._run(database.save_minutes, minutes)
        self._minute = minutes[-1].at
        # What changes meanwhile is for the next time: this has an end.
        left = record.unsaved
        while left > 0 and (clusters := await self._gather(min(left, WRITTEN_TOGETHER))):
            left -= len(clusters)
            try:
                await self._run(database.save_clusters, clusters)
            except FleetDatabaseError:
                record.put_back(clusters)
                raise

    async def _gather(self, most: int) -> list[SavedCluster]:
        """Return clusters that have changed, in the order of the table."""
        clusters: list[SavedCluster] = []
        while some := self._record.take_unsaved(min(_TOGETHER, most - len(clusters))):
            clusters += some
            await turn(self._clock)
        clusters.sort(key=itemgetter(0))
        return clusters

    async def _forget(self) -> None:
        self._rounds += 1
        if self._rounds % _FORGET_EVERY != 1:
            return
        now = moment(self._clock, self._wall)
        while not self._record.forget_silent(self._retention, now.elapsed, _FORGOTTEN_AT_ONCE):
            await turn(self._clock)
        if self._database.is_open:
            # By whichever clock is behind: a wall clock that is set wrong makes nothing forgotten.
            time = min(now.wall, self._record.time_of(now.elapsed))
            await self._run(
                self._database.forget, time - self._retention, self._record.max_clusters
            )

    def _failed(self, error: FleetDatabaseError) -> None:
        ERRORS.inc()
        if self.behind_since is None:
            self.behind_since = self._good
            log.error(
                "the fleet's record cannot be written; it is tried again, and all goes on",
                flag=self._flag,
                reason=str(error),
            )

    def _broke(self, failure: Failure) -> None:
        log.failure("the fleet's record is not written any more", failure)
        self.behind_since = self._good
