"""The keeper of the spool: calls it in a thread of its own, and tells how it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from threading import Event
from typing import Final, TypeVar

from prometheus_client import Counter, Gauge
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from telemeter.agent.spool import Entry, Spool, SpoolError, SpoolInUseError, SpoolState
from telemeter.loop.clocks import WallClock
from telemeter.loop.services import StartError
from telemeter.loop.threads import Runner, run_here
from telemeter.loop.timeouts import TIMEOUTS

ENTRIES: Final = Gauge("federate_spool_entries", "Collections that wait on disk.")
BYTES: Final = Gauge("federate_spool_bytes", "The bytes that they have.")
OLDEST: Final = Gauge(
    "federate_spool_oldest_timestamp_seconds",
    "When the oldest of them was collected, or 0 if none waits.",
)
DROPPED: Final = Counter(
    "federate_spool_dropped_total",
    "Collections that were dropped undelivered, or some of their series, by reason: age, bytes, "
    "damaged, disk, or the status by which series were refused.",
    ["reason"],
)
ERRORS: Final = Counter(
    "federate_spool_errors_total", "Times that the disk of the spool did not do what was asked."
)
for _reason in ("age", "bytes", "damaged", "disk"):
    DROPPED.labels(_reason)

#: A stop has no more time for a disk that hangs, in seconds.
_CLOSE_SECONDS: Final = 1.0

_Result = TypeVar("_Result")

log = Logger()


class Keeper(Service):
    """The service that has the spool.

    Attributes:
        state: what is in the spool, as far as is known.
    """

    def __init__(
        self,
        spool: Spool,
        clock: IReactorTime,
        wall: WallClock,
        run: Runner = run_here,
        *,
        flag: str = "--spool-dir",
        seconds: float = TIMEOUTS.spool,
    ) -> None:
        """Make it.

        Args:
            spool: what it keeps.
            clock: times the disk.
            wall: tells how old what waits is.
            run: calls the spool, one call after the other.
            flag: what messages begin with: the program, the flag and its value.
            seconds: how long the disk may take for anything.
        """
        self.state = SpoolState()
        self._spool = spool
        self._clock = clock
        self._wall = wall
        self._run = run
        self._flag = flag
        self._seconds = seconds
        self._is_open = False
        self._gone: set[int] = set()  # delivered, but the spool does not know that yet
        self._faults: dict[str, str] = {}  # what the disk does not do, and why
        self._late: Event | None = None  # is set when a call that took too long has ended

    def startService(self) -> None:
        super().startService()
        try:
            self._spool.lock()
        except SpoolInUseError:
            raise StartError(f"{self._flag}: another agent uses this folder") from None
        except SpoolError as error:
            raise StartError(f"{self._flag}: {error}") from None

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    def hurry(self) -> None:
        """Wait less for the disk from now on, because all stops."""
        self._seconds = min(self._seconds, _CLOSE_SECONDS)

    async def _close(self) -> None:
        try:
            self.hurry()
            await self._call(self._spool.close)
        except SpoolError as error:
            log.error("the spool could not be closed", reason=str(error))
        self._is_open = False

    async def keep(self, collected_ms: int, body: bytes, *, is_write: bool = False) -> None:
        """Keep a collection on disk; see `Spool.keep`. Raises `SpoolError`."""
        dropped = await self._use(
            lambda: self._spool.keep(collected_ms, body, is_write=is_write), "keep a collection"
        )
        for reason, flag, count in (
            ("age", "--spool-max-age", dropped.by_age),
            ("bytes", "--spool-max-bytes", dropped.by_size),
        ):
            if count:
                DROPPED.labels(reason).inc(count)
                log.warn(
                    "the oldest collections on disk were dropped undelivered",
                    count=count,
                    flag=flag,
                )

    async def next(self, *, newest: bool, without: Collection[int] = ()) -> Entry | None:
        """Return what is to be delivered next; see `Spool.next`. Raises `SpoolError`."""
        others = [*without, *self._gone]
        return await self._use(
            lambda: self._spool.next(newest=newest, without=others), "read a collection"
        )

    async def forget(self, number: int) -> None:
        """Forget a collection; see `Spool.forget`. A disk that does not is told of in the log."""
        gone = [number, *sorted(self._gone)]
        self._gone.add(number)

        def forget() -> None:
            for each in gone:
                self._spool.forget(each)

        try:
            await self._use(forget, "forget a collection")
            self._gone.difference_update(gone)
        except SpoolError:
            # It is not delivered again, at least until the agent is started again; and that would
            # do no harm.
            self._show(replace(self.state, entries=max(0, self.state.entries - 1)))

    def describe(self) -> str:
        """Return how it is, in words."""
        for purpose, reason in self._faults.items():
            return f"it cannot {purpose}: {reason}"
        if not self.state.entries:
            return "ok, nothing waits"
        return f"{self.state.entries} collections wait, the oldest is {self.age:.0f} s old"

    @property
    def age(self) -> float:
        """How old the oldest collection is that waits, in seconds."""
        oldest = self.state.oldest_ms
        return max(0.0, self._wall.now() - oldest / 1000) if oldest else 0.0

    async def _use(self, function: Callable[[], _Result], purpose: str) -> _Result:
        """Call the spool, which is opened if it is not; raises `SpoolError`.

        A disk that does not do what is asked is told of once, and again when it does.
        """
        try:
            try:
                await self._open()
                result = await self._call(function)
            except SpoolError as error:
                if not error.is_of_database:
                    raise
                self._is_open = False  # what is wrong with it is looked for when it is opened
                await self._open()
                result = await self._call(function)
            state = await self._call(self._spool.state)
        except SpoolError as error:
            ERRORS.inc()
            if not self._faults:
                log.error(
                    "the spool cannot be used, what is collected is delivered without it",
                    purpose=purpose,
                    reason=str(error),
                )
            self._faults[purpose] = str(error)
            raise
        # A full disk can still be read: that is no reason to tell of it again.
        if self._faults.pop(purpose, None) and not self._faults:
            log.info("the spool can be used again")
        self._show(state)
        return result

    async def _open(self) -> None:
        """Open the spool, if it is not; raises `SpoolError`."""
        if self._is_open:
            return
        aside = await self._call(self._spool.open)
        self._is_open = True
        if aside:
            log.error("the spool cannot be used; it is set aside, and a new one begun", aside=aside)

    def _show(self, state: SpoolState) -> None:
        self.state = state
        ENTRIES.set(state.entries)
        BYTES.set(state.size)
        OLDEST.set(state.oldest_ms / 1000)

    async def _call(self, function: Callable[[], _Result]) -> _Result:
        """Call a function of the spool in its thread; raises `SpoolError`, also if it is late."""
        if self._late is not None and not self._late.is_set():
            raise SpoolError("the disk has not answered an earlier request")
        ended = Event()

        def call() -> _Result:
            try:
                return function()
            finally:
                ended.set()

        done = Deferred.fromCoroutine(_awaited(self._run, call))
        try:
            return await done.addTimeout(self._seconds, self._clock)
        except LateError:
            self._late = ended
            raise SpoolError(f"the disk gave no answer within {self._seconds:g} s") from None


async def _awaited(run: Runner, function: Callable[[], _Result]) -> _Result:
    return await run(function)
