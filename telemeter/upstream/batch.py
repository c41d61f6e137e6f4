"""Group commit: what arrives while a forward is under way goes out together.

Two remote-write requests, one behind the other, are one valid request with the series of both; and
so are their snappy blocks (see `join_blocks`). So a batch costs the upstream one request, and us
next to nothing.

A batch that the upstream refuses because of its samples is sent again in parts, side by side, until
each sender at fault is alone: a request is sent three times more at most, and a batch of up to 90
with one sender at fault makes 20 requests or fewer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from prometheus_client import Counter, Gauge, Histogram
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from telemeter.net.upstream import ForwardError, Sent
from telemeter.samples.compression import block_size, join_blocks

BATCHED: Final = Histogram(
    "telemeter_forward_batch_requests",
    "How many senders' requests went to the upstream together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
SPLIT: Final = Counter(
    "telemeter_forward_batch_splits_total",
    "Batches that the upstream refused, and that were sent again in parts to find the sender at "
    "fault.",
)
WAITING: Final = Gauge(
    "telemeter_forward_queue_requests",
    "Requests that wait for a request to the upstream to end, before they are sent.",
    multiprocess_mode="livesum",
)
HELD: Final = Gauge(
    "telemeter_forward_queue_bytes",
    "While requests wait: the size of all that wait or have no answer yet, compressed.",
    multiprocess_mode="livesum",
)
WAITED: Final = Histogram(
    "telemeter_forward_queue_seconds",
    "How long requests waited before they were sent to the upstream, of those that had to.",
    buckets=(0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
OLDEST: Final = Gauge(
    "telemeter_forward_queue_oldest_seconds",
    "How long the oldest request has waited to be sent to the upstream, when last looked at.",
    multiprocess_mode="livemax",
)
LEFT: Final = Counter(
    "telemeter_forward_queue_left_total",
    "Requests that were given up before they were sent: their senders left, or had waited too "
    "long.",
)

#: Refusals that are not about the samples: each part of the batch would meet the same.
_NOT_ABOUT_SAMPLES: Final = frozenset((401, 403, 404, 405, 407, 408, 429))
#: How many batches may be under way when full ones, or old ones, wait.
_MAX_UNDER_WAY: Final = 16
#: After this time the next batch does not wait any longer for the one that is under way.
_PATIENCE_SECONDS: Final = 0.5
#: How many compressed bytes may be held in all, those under way included.
_MAX_HELD_BYTES: Final = 256 << 20
_BUSY_SECONDS: Final = 30
#: How often a request may be sent again in a smaller part.
_MOST_PARTINGS: Final = 3
#: A refused batch of up to so many goes out again as single requests; up to so many, in parts that
#: do so in turn. Both keep the requests that one sender at fault causes at 20 or fewer.
_SINGLE: Final = 19
_TWO_STEPS: Final = 90
#: How many parts of refused batches are under way side by side.
_SIDE_BY_SIDE: Final = 20

#: Sends a block to the upstream; raises `ForwardError`.
Deliver: TypeAlias = Callable[[bytes], Awaitable[Sent]]

log = Logger()


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of a batch.

    Attributes:
        requests: how many senders' requests; 1: each is forwarded by itself.
        size: how many bytes, decompressed. A request that is larger goes out by itself.
    """

    requests: int = 64
    size: int = 4 << 20


#: No batches.
ALONE: Final = BatchLimits(requests=1)


class _Waiting:
    """A sender's request that waits for the upstream's answer."""

    __slots__ = ("added", "answer", "block", "size")

    def __init__(self, block: bytes, now: float, cancel: Callable[[Deferred[Any]], None]) -> None:
        self.block = block
        self.size = block_size(block)
        self.added = now
        self.answer: Deferred[Sent] = Deferred(cancel)


class _Batch:
    """Requests that are sent together.

    Attributes:
        requests: theirs.
        sending: fires when all are answered; cancel it when nobody waits for an answer.
    """

    __slots__ = ("requests", "sending")

    def __init__(self, requests: list[_Waiting]) -> None:
        self.requests = requests
        self.sending: Deferred[None]


class Batches:
    """A sender of blocks for one tenant and identity, several at a time when they come fast.

    Each sender gets the answer to the request that its samples were in. An idle upstream gets a
    block at once. While one is under way the following wait for its end, until they fill a batch or
    have waited long enough; then they go out beside it. Batches that are refused make the following
    ones smaller, and those that are accepted make them larger again.
    """

    def __init__(self, deliver: Deliver, clock: IReactorTime, limits: BatchLimits) -> None:
        """Make it.

        Args:
            deliver: sends a block.
            clock: tells for how long blocks have waited.
            limits: how large a batch may become.
        """
        self._deliver = deliver
        self._clock = clock
        self._limits = limits
        self._most = limits.requests  # in a batch, at present
        # The oldest first. Each is found by its Deferred, by which it may be cancelled.
        self._waiting: OrderedDict[Deferred[Sent], _Waiting] = OrderedDict()
        self._waiting_size = 0  # decompressed
        self._held = 0  # compressed bytes, waiting and under way
        self._under_way: dict[Deferred[Sent], _Batch] = {}
        self._batches_under_way = 0
        self._is_starting = False
        self._late: IDelayedCall | None = None
        self._parts = DeferredSemaphore(_SIDE_BY_SIDE)

    def add(self, block: bytes) -> Deferred[Sent]:
        """Send a block of a remote-write request 1.0, soon.

        Returns:
            What the upstream answered to the batch with this block in it; or a failure,
            `ForwardError`. Cancelling it takes the block out of the queue.
        """
        if self._held + len(block) > _MAX_HELD_BYTES:
            raise ForwardError(
                503,
                "too many samples are waiting for the upstream already: "
                f"{self._held} bytes, compressed, of {_MAX_HELD_BYTES} that may (fixed)",
                str(_BUSY_SECONDS),
            )
        waiting = _Waiting(block, self._clock.seconds(), self._leave)
        self._held += len(block)
        self._waiting[waiting.answer] = waiting
        self._waiting_size += waiting.size
        self._go_on()
        return waiting.answer

    def _leave(self, answer: Deferred[Sent]) -> None:
        """Forget a request whose sender does not wait for its answer any more."""
        waiting = self._waiting.pop(answer, None)
        if waiting is not None:
            LEFT.inc()
            self._waiting_size -= waiting.size
            self._held -= len(waiting.block)
            return
        batch = self._under_way.pop(answer, None)
        if batch is not None:
            others = (each.answer for each in batch.requests if each.answer is not answer)
            if all(other.called for other in others):
                batch.sending.cancel()  # nobody wants to know: let others have its place

    def _go_on(self) -> None:
        """Start what may start now."""
        if self._is_starting:
            return  # a batch has ended at once; the loop below goes on
        self._is_starting = True
        while self._waiting and self._may_start():
            self._start()
        self._is_starting = False
        if not self._waiting:
            self._stop_waiting()
        elif self._late is None and self._batches_under_way < _MAX_UNDER_WAY:
            self._late = self._clock.callLater(_PATIENCE_SECONDS, self._lose_patience)

    def show(self) -> None:
        """Show in the metrics what waits; to do that at each change costs more."""
        WAITING.set(len(self._waiting))
        HELD.set(self._held if self._waiting else 0)
        oldest = next(iter(self._waiting.values()), None)
        OLDEST.set(0.0 if oldest is None else self._clock.seconds() - oldest.added)

    def _may_start(self) -> bool:
        is_full = len(self._waiting) >= self._most or self._waiting_size >= self._limits.size
        return not self._batches_under_way or (is_full and self._batches_under_way < _MAX_UNDER_WAY)

    def _lose_patience(self) -> None:
        self._late = None
        if self._waiting and self._batches_under_way < _MAX_UNDER_WAY:
            self._start()
        self._go_on()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _start(self) -> None:
        self._stop_waiting()
        self._batches_under_way += 1
        batch = _Batch(self._take())
        for waiting in batch.requests:
            self._under_way[waiting.answer] = batch
        batch.sending = Deferred.fromCoroutine(self._send(batch))
        batch.sending.addBoth(self._ended, batch)

    def _take(self) -> list[_Waiting]:
        """Return the next batch: at least one request, and no more than the limits allow."""
        taken: list[_Waiting] = []
        size, now = 0, self._clock.seconds()
        while self._waiting and len(taken) < self._most:
            waiting = next(iter(self._waiting.values()))
            if taken and size + waiting.size > self._limits.size:
                break
            del self._waiting[waiting.answer]
            if now > waiting.added:
                WAITED.observe(now - waiting.added)
            taken.append(waiting)
            size += waiting.size
        self._waiting_size -= size
        return taken

    def _ended(self, result: object, batch: _Batch) -> None:
        for waiting in batch.requests:
            self._under_way.pop(waiting.answer, None)
        self._held -= sum(len(waiting.block) for waiting in batch.requests)
        self._batches_under_way -= 1
        self._go_on()

    async def _send(self, batch: _Batch) -> None:
        BATCHED.observe(len(batch.requests))
        await self._settle(batch.requests, _MOST_PARTINGS)

    async def _settle(self, requests: list[_Waiting], partings: int) -> None:
        """Send requests together, in parts if they are refused, and tell each sender the answer.

        Args:
            requests: what to send.
            partings: how often they may still be parted, if there are several.
        """
        is_part = partings < _MOST_PARTINGS
        if is_part:
            requests = [each for each in requests if not each.answer.called]  # some have left
        if not requests:
            return
        block = join_blocks([waiting.block for waiting in requests])
        try:
            sent = await (self._deliver_part(block) if is_part else self._deliver(block))
        except ForwardError as error:
            if len(requests) == 1 or not _is_about_samples(error):
                _tell(requests, error)
                return
        except CancelledError:  # all have left; or else those who have not may come again
            reason = "the request to the upstream was given up"
            _tell(requests, ForwardError(503, reason, str(_BUSY_SECONDS)))
            return
        except Exception as error:
            log.failure("a batch could not be forwarded")
            _tell(requests, error)
            return
        else:
            if not is_part and len(requests) >= self._most:
                self._most = min(self._limits.requests, self._most + max(1, self._most // 2))
            _tell(requests, sent)
            return
        SPLIT.inc()
        if not is_part:
            self._most = max(1, self._most // 2)
        del block
        parts, partings = _part(requests, partings)
        sending = [Deferred.fromCoroutine(self._settle(part, partings)) for part in parts]
        await DeferredList(sending)

    async def _deliver_part(self, block: bytes) -> Sent:
        await self._parts.acquire()
        try:
            return await self._deliver(block)
        finally:
            self._parts.release()


def _tell(requests: Sequence[_Waiting], answer: Sent | Exception) -> None:
    """Tell those who still wait what became of their requests."""
    for waiting in requests:
        if waiting.answer.called:
            continue
        if isinstance(answer, Exception):
            waiting.answer.errback(answer)
        else:
            waiting.answer.callback(answer)


def _part(requests: list[_Waiting], partings: int) -> tuple[list[list[_Waiting]], int]:
    """Return the parts in which a refused batch is sent again, and how often each may be parted."""
    count = len(requests)
    if count <= _SINGLE or partings == 1:
        size, partings = 1, 0
    elif count <= _TWO_STEPS or partings == 2:
        size, partings = math.ceil(count / math.ceil(math.sqrt(count))), 1
    else:
        size, partings = math.ceil(count / math.ceil(math.cbrt(count))), 2
    return [requests[at : at + size] for at in range(0, count, size)], partings


def _is_about_samples(error: ForwardError) -> bool:
    return error.answered and 400 <= error.status < 500 and error.status not in _NOT_ABOUT_SAMPLES
