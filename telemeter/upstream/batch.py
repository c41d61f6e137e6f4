"""Group commit: what arrives while a forward is under way goes out together.

Two remote-write requests, one behind the other, are one valid request with the series of both; and
so are their snappy blocks (see `join_blocks`). So a batch costs the upstream one request, and us
next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client import Counter, Histogram
from twisted.internet.defer import Deferred
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
    "Batches that the upstream refused, and that were halved to find the sender at fault.",
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

    __slots__ = ("answer", "block", "size")

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.size = block_size(block)
        self.answer: Deferred[Sent] = Deferred()


class Batches:
    """A sender of blocks for one tenant and identity, several at a time when they come fast.

    Each sender gets the answer to the request that its samples were in. An idle upstream gets a
    block at once. While one is under way the following wait for its end, until they fill a batch or
    have waited long enough; then they go out beside it.
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
        self._waiting: deque[_Waiting] = deque()
        self._waiting_size = 0  # decompressed
        self._held = 0  # compressed bytes, waiting and under way
        self._under_way = 0
        self._late: IDelayedCall | None = None

    def add(self, block: bytes) -> Deferred[Sent]:
        """Send a block of a remote-write request 1.0, soon.

        Returns:
            What the upstream answered to the batch with this block in it; or a failure,
            `ForwardError`.
        """
        if self._held + len(block) > _MAX_HELD_BYTES:
            raise ForwardError(
                503,
                "too many samples are waiting for the upstream already: "
                f"{self._held} bytes, compressed, of {_MAX_HELD_BYTES} that may (fixed)",
                str(_BUSY_SECONDS),
            )
        waiting = _Waiting(block)
        self._held += len(block)
        self._waiting.append(waiting)
        self._waiting_size += waiting.size
        self._go_on()
        return waiting.answer

    def _go_on(self) -> None:
        """Start what may start now."""
        while self._waiting and self._may_start():
            self._start()
        if not self._waiting:
            self._stop_waiting()
        elif self._late is None and self._under_way < _MAX_UNDER_WAY:
            self._late = self._clock.callLater(_PATIENCE_SECONDS, self._lose_patience)

    def _may_start(self) -> bool:
        is_full = (
            len(self._waiting) >= self._limits.requests or self._waiting_size >= self._limits.size
        )
        return not self._under_way or (is_full and self._under_way < _MAX_UNDER_WAY)

    def _lose_patience(self) -> None:
        self._late = None
        if self._under_way < _MAX_UNDER_WAY:
            self._start()
        self._go_on()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _start(self) -> None:
        self._stop_waiting()
        self._under_way += 1
        Deferred.fromCoroutine(self._send(self._take())).addBoth(self._ended)

    def _take(self) -> list[_Waiting]:
        """Return the next batch: at least one request, and no more than the limits allow."""
        taken = [self._waiting.popleft()]
        size = taken[0].size
        while (
            self._waiting
            and len(taken) < self._limits.requests
            and size + self._waiting[0].size <= self._limits.size
        ):
            taken.append(self._waiting.popleft())
            size += taken[-1].size
        self._waiting_size -= size
        return taken

    def _ended(self, result: object) -> None:
        self._under_way -= 1
        self._go_on()

    async def _send(self, batch: list[_Waiting]) -> None:
        BATCHED.observe(len(batch))
        try:
            await self._settle(batch)
        except Exception as error:
            log.failure("a batch could not be forwarded")
            for waiting in batch:
                if not waiting.answer.called:
                    waiting.answer.errback(error)
        finally:
            self._held -= sum(len(waiting.block) for waiting in batch)

    async def _settle(self, batch: list[_Waiting]) -> None:
        """Send a batch, in halves if it is refused, and tell each sender what became of its own."""
        try:
            sent = await self._deliver(join_blocks([waiting.block for waiting in batch]))
        except ForwardError as error:
            if len(batch) == 1 or not _is_about_samples(error):
                for waiting in batch:
                    waiting.answer.errback(error)
                return
            SPLIT.inc()
        else:
            for waiting in batch:
                waiting.answer.callback(sent)
            return
        middle = len(batch) // 2
        await self._settle(batch[:middle])
        await self._settle(batch[middle:])


def _is_about_samples(error: ForwardError) -> bool:
    return error.answered and 400 <= error.status < 500 and error.status not in _NOT_ABOUT_SAMPLES
