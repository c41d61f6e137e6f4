"""The agent's cycle: collect, transform, authorize, upload; then an interval's rest."""

from __future__ import annotations

import random
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter, Gauge, Info
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from telemeter.agent.authorize import AuthorizeError, Token, TokenExchange
from telemeter.agent.collect import CollectError, FederationSource
from telemeter.agent.upload import DeliveryPlan, Destination, UploadError
from telemeter.convert.engine import KIND, LARGE, CollectConverter, Transformed
from telemeter.loop.backoff import FIRST_SECONDS, Backoff
from telemeter.loop.clocks import WallClock, milliseconds
from telemeter.loop.threads import Runner, run_here, run_if_large
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.samples.compression import compress_framed, decompress_framed
from telemeter.samples.errors import BadInputError
from telemeter.samples.family import Family, decode_families

SAMPLES = Gauge("federate_samples", "Samples that the last collection brought.")
FILTERED = Gauge("federate_filtered_samples", "How many of them the transforms dropped.")
TOTAL = Counter("federate_requests_total", "Cycles that were begun.")
FAILED = Counter("federate_requests_failed_total", "Cycles that failed.")
FAILED_STAGE = Counter(
    "federate_failures_total",
    "Cycles, and with a spool attempts to deliver, that failed, by what failed.",
    ["stage"],
)
LAST_SUCCESS = Gauge(
    "federate_last_success_timestamp_seconds",
    "When the last cycle succeeded, or with a spool the last delivery, or 0.",
)
TRANSFORMER = Info("federate_transformer", "Which code transforms the usual collection.")
TRANSFORMER.info({"kind": KIND})
for _stage in ("collect", "authorize", "upload"):
    FAILED_STAGE.labels(_stage)

_UNAUTHORIZED: Final = 401

log = Logger()


@dataclass(frozen=True)
class Collecting:
    """All that collecting needs.

    Attributes:
        source: where to collect.
        transformer: what to do with what was collected.
        selectors: how many selectors say what is collected.
    """

    source: FederationSource
    transformer: CollectConverter
    selectors: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class CyclePlan(Collecting):
    """All that a cycle needs; a reload replaces it as a whole.

    Attributes:
        tokens: gets the token for uploads.
        destination: where to upload.
        interval: seconds from the end of one cycle to the start of the next.
        delivery: how to deliver what a spool keeps; None: there is no spool.
    """

    tokens: TokenExchange
    destination: Destination
    interval: float
    delivery: DeliveryPlan | None = field(default=None, kw_only=True)


class CycleError(Exception):
    """A cycle failed.

    Attributes:
        stage: collect, authorize or upload.
        retry_after: when to try again, in seconds from now, if the server said so.
    """

    def __init__(self, stage: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.stage = stage
        self.retry_after = retry_after


class Agent(Service):
    """The service that runs the cycles."""

    def __init__(
        self,
        plan: CyclePlan,
        clock: IReactorTime,
        wall: WallClock,
        jitter: Callable[[float, float], float] = random.uniform,
        refresh: Callable[[], Awaitable[CyclePlan]] | None = None,
        run: Runner = run_here,
        *,
        keep: Callable[[Transformed], Awaitable[bytes]] | None = None,
        stop_seconds: float = TIMEOUTS.agent_stop,
    ) -> None:
        """Make an agent.

        Args:
            plan: what its cycles do.
            clock: times them.
            wall: tells the time of day.
            jitter: a random number between two others.
            refresh: is asked for the plan before every cycle; None: the plan stays until a reload.
            run: works on a large collection where that does not keep the reactor from its work.
            keep: takes what was collected, to deliver it some time, and returns it packed; None:
                it is uploaded.
            stop_seconds: how long a stop waits for the cycle that is under way.
        """
        self._keep = keep
        self._stop_seconds = stop_seconds
        self._last = b""  # as it was sent: compressed
        self._plan = plan
        self._clock = clock
        self._wall = wall
        self._backoff = Backoff(jitter, first=min(FIRST_SECONDS, plan.interval))
        self._refresh = refresh
        self._run = run
        self._loop: LoopingCall | None = None
        self._retry: IDelayedCall | None = None
        self._under_way: Deferred[None] | None = None
        self._again = False

    @property
    def last(self) -> list[Family]:
        """The families that were uploaded last, as they were sent; decoded anew each time.

        With a spool, those that were kept last, without the labels of the server.
        """
        return decode_families(decompress_framed(self._last, sys.maxsize))

    def startService(self) -> None:
        super().startService()
        self._start()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self._pause()
        if self._under_way is not None:
            self._under_way.addTimeout(self._stop_seconds, self._clock)
        return self._under_way

    def reload(self, plan: CyclePlan) -> None:
        """Use another plan from now on, and begin a cycle with it.

        A cycle that is under way ends as it began; the next follows at once.
        """
        self._plan = plan
        if not self.running:
            return
        if self._under_way is not None:
            self._again = True
        else:
            self._pause()
            self._start()

    def _start(self) -> None:
        """Begin a cycle now, and each further one an interval after the end of the last."""
        self._retry = None
        self._loop = LoopingCall(self._tick)
        self._loop.clock = self._clock
        self._loop.start(self._plan.interval).addErrback(
            lambda failure: log.failure("the agent's loop ended", failure)
        )

    def _pause(self) -> None:
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._loop = self._retry = None

    def _tick(self) -> Deferred[None]:
        """One cycle for the loop, which waits for it: so cycles never overlap."""
        self._under_way = Deferred.fromCoroutine(self._guarded_cycle())
        done = self._under_way
        done.addBoth(self._ended)
        return done

    def _ended(self, _: object) -> None:
        self._under_way = None
        if self._again and self.running:
            self._again = False
            self._pause()
            self._start()
        elif self._loop is not None:
            # By itself the loop goes by the start of its first cycle. A server's --ratelimit is as
            # long as our interval by default, and counts from when it saw the last upload: then a
            # collection that takes less time than the one before is uploaded too early.
            self._loop.starttime = self._clock.seconds()

    async def _guarded_cycle(self) -> None:
        TOTAL.inc()
        try:
            if self._refresh is not None:
                self._plan = await self._refresh()
            await self.cycle(self._plan)
        except CancelledError:
            return
        except CycleError as error:
            if not self.running:
                return  # what was under way failed because it was cancelled
            FAILED_STAGE.labels(error.stage).inc()
            wait = self._retry_later(error.retry_after)
            log.error(
                "cycle failed", stage=error.stage, reason=str(error), retry_seconds=round(wait, 1)
            )
        except Exception:
            wait = self._retry_later(None)
            log.failure("cycle failed", stage="internal", retry_seconds=round(wait, 1))
        else:
            self._backoff.succeeded()
            if self._keep is None:
                LAST_SUCCESS.set(self._wall.now())

    def _retry_later(self, retry_after: float | None) -> float:
        """Leave the rhythm; try again in a while, and take the rhythm up from there."""
        FAILED.inc()
        wait = self._backoff.wait(retry_after)
        self._pause()
        if self.running:
            self._retry = self._clock.callLater(wait, self._start)
        return wait

    async def cycle(self, plan: CyclePlan) -> None:
        """Run one cycle.

        Raises:
            CycleError: it failed.
        """
        began = self._clock.seconds()
        transformed = await collect(plan, self._wall, self._run)
        if not transformed.families:
            log.warn("no metrics to send: nothing that was collected is left")
            return
        if self._keep is not None:
            self._last = await self._keep(transformed)
            return
        token = await _token(plan)
        told = {
            "samples": transformed.samples,
            "filtered": transformed.received - transformed.samples,
            "families": transformed.families,
        }
        # What is large goes as soon as it can: the upload may take its time.
        pack = self._run if transformed.is_large else run_here
        self._last = await pack(_packed, transformed, token.labels)
        try:
            await plan.destination.upload(self._last, token)
        except UploadError as error:
            if error.status != _UNAUTHORIZED:
                raise _failed_upload(error) from error
            # A server that was restarted, or has another key, does not know its old tokens.
            log.info("the server did not accept the token; asking for another", reason=str(error))
            plan.tokens.drop(token)
            another = await _token(plan)
            if another.labels != token.labels:
                self._last = await pack(_packed, transformed, another.labels)
            try:
                await plan.destination.upload(self._last, another)
            except UploadError as again:
                if again.status == _UNAUTHORIZED:
                    plan.tokens.drop(another)
                raise _failed_upload(again) from again
        log.info(
            "metrics uploaded",
            **told,
            bytes=len(self._last),
            seconds=f"{self._clock.seconds() - began:.3f}",
        )


async def _token(plan: CyclePlan) -> Token:
    """Return the token to upload with; raises `CycleError`."""
    try:
        return await plan.tokens.get()
    except AuthorizeError as error:
        raise CycleError("authorize", str(error), error.retry_after) from error


def _failed_upload(error: UploadError) -> CycleError:
    return CycleError("upload", str(error), error.retry_after)


def _packed(transformed: Transformed, labels: Mapping[str, str]) -> bytes:
    """Return what is uploaded."""
    return compress_framed(transformed.labelled(labels))


async def collect(collecting: Collecting, wall: WallClock, run: Runner = run_here) -> Transformed:
    """Collect and transform, as a cycle does before anything leaves the house.

    Args:
        collecting: from where, and how.
        wall: tells the time of day, by which samples are too old.
        run: works on a large collection where that does not keep the reactor from its work.

    Raises:
        CycleError: the source gave nothing usable.
    """
    try:
        body, decode = await collecting.source.collect()
        transform = run_if_large(run, len(body), LARGE)
        transformed: Transformed = await transform(
            collecting.transformer.convert, body, decode, milliseconds(wall.now())
        )
    except (CollectError, BadInputError) as error:
        raise CycleError("collect", str(error)) from error
    SAMPLES.set(transformed.received)
    FILTERED.set(transformed.received - transformed.samples)
    return transformed
