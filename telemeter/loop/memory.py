"""Memory of a daemon: Python's search for unused objects, and what the system gets back."""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final, Protocol

from twisted.application.internet import TimerService
from twisted.internet.interfaces import IReactorTime

from telemeter.loop.threads import Runner

#: After how many new objects Python looks for cycles among them; after how many of those searches
#: it includes older objects; after how many of these, all. A request leaves some fifty objects in
#: cycles, none of them large.
_COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)

#: How often it is looked how much is held, in seconds.
_LOOK_SECONDS: Final = 1.0
#: Memory is given back after a peak of so many bytes, of which less than half are left.
_WORTH_BYTES: Final = 16 << 20


def search_less() -> None:
    """Search for unused objects less often than Python does by default.

    That is every ten requests for new objects, and for all of a daemon's every few thousand, which
    keeps some requests waiting. While modules are imported, everything stays: the searches are a
    tenth of a daemon's start.
    """
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def settle_memory() -> None:
    """Leave what is there from the start out of the search for unused objects from now on."""
    gc.collect()
    gc.freeze()
    search_less()


class Peak(Protocol):
    """A measure of bytes that are held; see `telemeter.limits.inflight.InFlight`."""

    @property
    def held(self) -> int: ...
    @property
    def peak(self) -> int: ...
    def forget_peak(self) -> None: ...
    def show(self) -> None: ...


class MemoryReturn(TimerService):
    """A service that gives the system memory back after a peak, and has the measure shown.

    The allocator of the C library keeps what is freed below what is still in use.
    """

    def __init__(self, clock: IReactorTime, measure: Peak, run: Runner) -> None:
        """Make it.

        Args:
            clock: tells when to look.
            measure: of what was held.
            run: calls functions in threads: to look through a large heap takes its time.
        """
        super().__init__(_LOOK_SECONDS, self._look)
        self.clock = clock
        self._run = run
        self._measure = measure
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc

    async def _look(self) -> None:
        measure = self._measure
        measure.show()
        if measure.peak < _WORTH_BYTES or measure.held > measure.peak // 2:
            return
        measure.forget_peak()
        if self._trim is not None:
            await self._run(self._trim, 0)
