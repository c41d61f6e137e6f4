"""Delivery: what is in the spool goes to the server's /metrics/v1/receive, one by one.

Each collection keeps the timestamps that it has, so that to send one again does no harm: nothing is
lost with an answer that does not arrive. It is forgotten when the server said 2xx.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from telemeter.agent.authorize import AuthorizeError
from telemeter.agent.cycle import FAILED_STAGE, LAST_SUCCESS
from telemeter.agent.halving import REFUSALS, Halving
from telemeter.agent.keeper import DROPPED, Keeper
from telemeter.agent.spool import Entry, SpoolError
from telemeter.agent.upload import DeliveryPlan, UploadError
from telemeter.convert.engine import LARGE, Transformed, UploadConverter
from telemeter.convert.parts import ended
from telemeter.convert.upload import UploadRules
from telemeter.loop.backoff import Backoff
from telemeter.loop.clocks import WallClock, milliseconds
from telemeter.loop.threads import Runner, run_here, run_if_large
from telemeter.samples.compression import compress_block, compress_framed, decompress_framed
from telemeter.samples.errors import BadInputError
from telemeter.samples.family import decode_families

DELIVERED: Final = Counter(
    "federate_spool_delivered_total",
    "Collections that were delivered, all or most of their series.",
)
REFUSED_SERIES: Final = Counter(
    "federate_spool_refused_series_total",
    "Series of collections that the server refused one by one, by its status.",
    ["status"],
)

#: The label that tells clusters apart.
ID_LABEL: Final = "_id"
#: How much faster the parts of a refused request follow each other than whole ones.
_HALVES: Final = 10
#: Failures in a row after which another collection is tried, to see whether it is this one alone.
_PATIENCE: Final = 3
#: The same where the order matters, or it looks as if the server, or what is behind it, was down.
#: If it comes back between the two tries, a receiver that wants samples in order never takes the
#: first: this must be rare.
_LONG_PATIENCE: Final = 12
_OF_AN_OUTAGE: Final = frozenset({0, 502, 503, 504})
#: These speak of the sender: another collection would fare no better.
_OF_THE_SENDER: Final = frozenset({401, 403, 429})
#: How many seconds a collection that fails alone lets others go first.
_HELD_SECONDS: Final = 300.0
#: After so many seconds a disk that could not be read is asked again.
_DISK_SECONDS: Final = 60.0
#: More than any collection has, decompressed.
_MOST_BYTES: Final = 1 << 30
#: The number of a collection that is not on disk.
_NOT_ON_DISK: Final = 0

log = Logger()


class UndeliveredError(Exception):
    """A collection was not delivered, and stays where it is.

    Attributes:
        stage: authorize or upload.
        status: what the server said; 0: nothing.
        retry_after: when to try again, in seconds from now, if the server said so.
    """

    def __init__(
        self, stage: str, reason: str, status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.stage = stage
        self.status = status
        self.retry_after = retry_after


@dataclass
class _Work:
    """A collection under way.

    Attributes:
        entry: the collection.
        labels: those that were added.
        halving: its series.
        sent: how many bytes were sent.
        seconds: how long the answers of the requests took that were accepted.
    """

    entry: Entry
    labels: Mapping[str, str]
    halving: Halving
    sent: int = 0
    seconds: float = 0.0


class Delivery(Service):
    """The service that delivers, oldest or newest first."""

    def __init__(
        self,
        keeper: Keeper,
        plan: Callable[[], DeliveryPlan],
        clock: IReactorTime,
        wall: WallClock,
        jitter: Callable[[float, float], float] = random.uniform,
        run: Runner = run_here,
        *,
        stop_seconds: float = 3.0,
        stale_on_stop: bool = False,
    ) -> None:
        """Make it.

        Args:
            keeper: has the collections.
            plan: returns how to deliver them now.
            clock: times everything.
            wall: tells the time of day.
            jitter: a random number between two others.
            run: works on a large collection where that does not keep the reactor from its work.
            stop_seconds: how long a stop waits for a request that is under way.
            stale_on_stop: whether to say at a stop that what was last sent has ended.
        """
        self._keeper = keeper
        self._plan = plan
        self._clock = clock
        self._wall = wall
        self._run = run
        self._backoff = Backoff(jitter)
        self._stop_seconds = stop_seconds
        self._stale_on_stop = stale_on_stop
        self._under_way: Deferred[None] | None = None
        self._idle: Deferred[None] | None = None  # what it waits for, if that is no answer
        self._wants_news = False  # whether that is news
        self._is_last = False  # whether what is sent now is the last before the end
        self._unkept: Entry | None = None
        self._is_news = False
        self._work: _Work | None = None
        self._next_request = 0.0
        self._most_series = 0
        self._is_hopeless = False
        self._backlog = 0  # what was delivered since there were failures
        self._failing = (-1, 0)  # the number of a collection, and its failures in a row
        self._suspect: int | None = None  # a collection that others are tried instead of
        self._held: dict[int, float] = {}  # when collections that fail alone are tried again
        self._known: set[int] = set()  # collections that were held once
        self._last_sent = b""  # the newest collection that was delivered, compressed
        self._last_sent_ms = 0

    # --- Taking -----------------------------------------------------------------------------------

    async def take(self, transformed: Transformed) -> bytes:
        """Keep a collection on disk, and deliver it in its turn.

        Returns:
            It, as delimited families in framed snappy.
        """
        pack = self._run if transformed.is_large else run_here
        body = await pack(_packed, transformed)
        await self._keep(body, is_write=False)
        self._wake()
        return body

    async def _keep(self, body: bytes, *, is_write: bool) -> None:
        entry = Entry(_NOT_ON_DISK, milliseconds(self._wall.now()), is_write, body)
        try:
            if self._unkept is not None:  # it is older, and has its turn before this one
                before = self._unkept
                await self._keeper.keep(before.collected_ms, before.body, is_write=before.is_write)
                self._unkept = None
            await self._keeper.keep(entry.collected_ms, body, is_write=is_write)
        except SpoolError:
            if self._unkept is not None:
                DROPPED.labels("disk").inc()
            self._unkept = entry

    # --- The service ------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._is_last = False
        self._start()

    def _start(self) -> None:
        self._under_way = Deferred.fromCoroutine(self._deliver_all())
        self._under_way.addErrback(self._broke)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        """Let a request that is under way end; with `--stale-on-stop`, send the last one."""
        await self._end(self._stop_seconds)
        self._keeper.hurry()
        if not self._stale_on_stop or not self._last_sent:
            return
        payload = decompress_framed(self._last_sent, _MOST_BYTES)
        markers = await run_if_large(self._run, len(payload), LARGE)(
            ended, payload, milliseconds(self._wall.now())
        )
        await self._keep(compress_framed(markers), is_write=True)
        if self._keeper.state.entries > 1:
            return  # they are delivered in their turn, when the agent runs again
        self._is_last = True
        self._start()
        await self._end(self._stop_seconds)

    async def _end(self, seconds: float) -> None:
        under_way = self._under_way
        if under_way is None or under_way.called:
            return
        if self._idle is not None:
            self._idle.cancel()
        await under_way.addTimeout(seconds, self._clock)

    def _broke(self, failure: object) -> None:
        """Log what is our own fault; the backlog is delivered after the next collection."""
        log.failure("the delivery ended", failure)  # type: ignore[arg-type]

    def _wake(self) -> None:
        self._is_news = True
        if self.running and (self._under_way is None or self._under_way.called):
            self._start()  # it had broken
        elif self._wants_news:
            self._end_pause()

    def retry_now(self) -> None:
        """Wait no longer after a failure: something may be different now."""
        self._end_pause()

    # --- One after the other ----------------------------------------------------------------------

    async def _deliver_all(self) -> None:
        try:
            while (entry := await self._next()) is not None:
                try:
                    await self._deliver(entry)
                except UndeliveredError as error:
                    await self._pause(self._after_failure(entry, error))
                else:
                    self._backoff.succeeded()
                    await self._forget(entry)
        except CancelledError:
            return

    async def _next(self) -> Entry | None:
        """Wait for something to deliver; None: there is nothing, and the service stops."""
        while True:
            self._is_news = False
            newest = self._plan().newest_first
            if newest and self._unkept is not None:
                return self._unkept
            wait: float | None = None
            try:
                entry = await self._keeper.next(newest=newest, without=self._set_behind())
            except SpoolError:
                entry, wait = None, _DISK_SECONDS
            if entry is not None:
                return entry
            if self._unkept is not None:
                return self._unkept
            if self._suspect is not None:  # there is nothing else to try
                if self._suspect in self._known:
                    self._hold(self._suspect)
                self._suspect = None
                continue
            if self._backlog:
                log.info("the backlog is delivered", collections=self._backlog)
                self._backlog = 0
            if not self.running:
                return None
            if self._held:
                soonest = max(0.0, min(self._held.values()) - self._clock.seconds())
                wait = soonest if wait is None else min(wait, soonest)
            if not self._is_news:
                self._wants_news = True
                try:
                    await self._pause(wait)
                finally:
                    self._wants_news = False

    def _hold(self, number: int) -> None:
        """Have a collection let others go first for a while."""
        log.warn(
            "a collection cannot be delivered while others can; it lets them go first",
            retry_seconds=_HELD_SECONDS,
        )
        self._held[number] = self._clock.seconds() + _HELD_SECONDS

    def _suspicion_holds(self, number: int) -> None:
        """Another collection was delivered instead of one that failed.

        The server may have come back between the two. So that one is tried once more at once.
        """
        if number in self._known:
            self._hold(number)
        self._known.add(number)

    def _set_behind(self) -> list[int]:
        """Return the numbers of collections that let others go first."""
        now = self._clock.seconds()
        self._held = {number: until for number, until in self._held.items() if until > now}
        behind = list(self._held)
        return behind if self._suspect is None else [*behind, self._suspect]

    async def _pause(self, seconds: float | None) -> None:
        """Wait so long, or until something ends the pause; None: only that does."""
        if not self.running:
            raise CancelledError
        self._idle = Deferred()
        timer = None if seconds is None else self._clock.callLater(seconds, self._end_pause)
        try:
            await self._idle
        finally:
            self._idle = None
            if timer is not None and timer.active():
                timer.cancel()

    def _end_pause(self) -> None:
        if self._idle is not None:
            self._idle.callback(None)

    async def _deliver(self, entry: Entry) -> None:
        """Deliver a collection, or what is left of it; raises `UndeliveredError`."""
        plan = self._plan()
        work = await self._begun(entry, plan)
        if work is None:
            return
        halving = work.halving
        while part := halving.part:
            await self._keep_pace(plan.rate * (_HALVES if halving.is_halved else 1))
            block = await run_if_large(self._run, len(part), LARGE)(compress_block, part)
            work.sent += len(block)
            began = self._clock.seconds()
            try:
                await plan.receiver.write(block)
            except UploadError as error:
                if error.status not in REFUSALS:
                    raise UndeliveredError(
                        "upload", str(error), error.status, error.retry_after
                    ) from error
                halving.was_refused(error.status, str(error))
            else:
                halving.accepted()
                work.seconds += self._clock.seconds() - began
        self._note_outcome(work)

    async def _begun(self, entry: Entry, plan: DeliveryPlan) -> _Work | None:
        """Return the work on a collection; None: nothing of it can be sent."""
        labels = await _labels(plan)
        work = self._work
        if work is not None and work.entry == entry and work.labels == labels:
            return work
        try:
            run = run_if_large(self._run, len(entry.body), LARGE // 8)
            payload = await run(_payload, entry, labels)
            halving = Halving(payload, most_series=self._most_series, hopeless=self._is_hopeless)
        except BadInputError as error:
            DROPPED.labels("damaged").inc()
            log.error("a collection on disk cannot be read, it is dropped", reason=str(error))
            return None
        except Exception:  # our fault, and no reason to keep all others waiting for ever
            DROPPED.labels("damaged").inc()
            log.failure("a collection on disk cannot be converted, it is dropped")
            return None
        if not entry.is_write and entry.collected_ms >= self._last_sent_ms and self._stale_on_stop:
            self._last_sent, self._last_sent_ms = compress_framed(payload), entry.collected_ms
        self._work = _Work(entry, labels, halving)
        return self._work

    async def _keep_pace(self, rate: float) -> None:
        wait = self._next_request - self._clock.seconds()
        if wait > 0 and not self._is_last:
            await self._pause_whole(wait)
        self._next_request = self._clock.seconds() + 1 / rate

    async def _pause_whole(self, seconds: float) -> None:
        """Wait so long, whatever news there is."""
        until = self._clock.seconds() + seconds
        while (left := until - self._clock.seconds()) > 0:
            await self._pause(left)

    def _note_outcome(self, work: _Work) -> None:
        halving = work.halving
        self._work = None
        self._most_series = halving.most_series
        self._is_hopeless = halving.is_hopeless
        for status, series in halving.refused.items():
            DROPPED.labels(str(status)).inc()
            REFUSED_SERIES.labels(str(status)).inc(series)
        age = max(0.0, self._wall.now() - work.entry.collected_ms / 1000)
        told = {
            "series": halving.delivered,
            "bytes": work.sent,
            "seconds": f"{work.seconds:.3f}",
            "age": f"{age:.0f}",
        }
        if halving.refused:
            log.warn(
                "the server refused series of a collection, they are dropped",
                refused=halving.refused.total(),
                reason=halving.reason,
                **told,
            )
        if halving.delivered:
            DELIVERED.inc()
            LAST_SUCCESS.set(self._wall.now())
            log.info("metrics delivered", **told)

    async def _forget(self, entry: Entry) -> None:
        """Forget a collection, of which nothing more is to be sent."""
        if self._backlog or self._failing[1]:
            self._backlog += 1
        self._failing = (-1, 0)
        if self._suspect is not None:
            self._suspicion_holds(self._suspect)
            self._suspect = None
        self._known.discard(entry.number)
        if entry.number != _NOT_ON_DISK:
            await self._keeper.forget(entry.number)
        elif self._unkept is entry:
            self._unkept = None

    def _after_failure(self, entry: Entry, error: UndeliveredError) -> float:
        """Count and tell of a failure; return how many seconds to wait."""
        FAILED_STAGE.labels(error.stage).inc()
        wait = self._backoff.wait(error.retry_after)
        number, failures = self._failing
        failures = failures + 1 if number == entry.number else 1
        if self._suspect is not None:  # another one fares no better
            self._suspect = None
        else:
            self._failing = (entry.number, failures)
            if self._is_worth_a_look_elsewhere(entry, error, failures):
                self._suspect = entry.number
                wait = 0.0
        log.error(
            "delivery failed, collections wait",
            stage=error.stage,
            reason=str(error),
            retry_seconds=round(wait, 1),
            waiting=self._keeper.state.entries + (self._unkept is not None),
            oldest_seconds=round(self._keeper.age),
        )
        return wait

    def _is_worth_a_look_elsewhere(
        self, entry: Entry, error: UndeliveredError, failures: int
    ) -> bool:
        """Return whether it may be this collection alone that fails."""
        if error.stage != "upload" or error.status in _OF_THE_SENDER or not entry.number:
            return False
        if error.retry_after is not None:
            return False
        if entry.number in self._known:
            return True
        # Where the order matters, a server that fails now and then must not change it.
        is_patient = error.status in _OF_AN_OUTAGE or not self._plan().newest_first
        return failures % (_LONG_PATIENCE if is_patient else _PATIENCE) == 0


async def _labels(plan: DeliveryPlan) -> Mapping[str, str]:
    """Return the labels to add to every sample; raises `UndeliveredError`."""
    try:
        token = await plan.tokens.get()
    except AuthorizeError as error:
        raise UndeliveredError("authorize", str(error), 0, error.retry_after) from error
    cluster = plan.receiver.cluster
    if cluster in token.labels.values() and ID_LABEL not in token.labels:
        return token.labels  # the server calls it something else
    return {**token.labels, ID_LABEL: cluster}


def _packed(transformed: Transformed) -> bytes:
    """Return a collection as it is kept."""
    return compress_framed(transformed.encoded())


def _payload(entry: Entry, labels: Mapping[str, str]) -> bytes:
    """Return a collection as a `WriteRequest`; raises `BadInputError`."""
    body = decompress_framed(entry.body, _MOST_BYTES)
    if entry.is_write:
        return body
    rules = UploadRules(labels=labels, keep_times=True)
    return UploadConverter(rules).convert(body, decode_families, {}, entry.collected_ms).payload
