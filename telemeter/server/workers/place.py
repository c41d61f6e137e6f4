"""The place of a worker: the process that is there, or when there will be another."""

from __future__ import annotations

import signal
from typing import Any, Final, Protocol

from prometheus_client import Counter
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from telemeter.loop.waiters import Waiters
from telemeter.server.workers import child
from telemeter.server.workers.child import Child

RESTARTS: Final = Counter(
    "telemeter_worker_restarts_total", "Worker processes started in place of one that ended."
)

#: A worker that ends earlier than this, in seconds after its start, is in trouble.
STABLE_SECONDS: Final = 10.0
#: The longest pause before the next try, in seconds.
MAX_PAUSE: Final = 30.0
#: How long the wait is when a reload must not be disturbed, in seconds.
_AFTER_RELOAD_SECONDS: Final = 0.1

log = Logger()


class Parent(child.Parent, Protocol):
    """The part of the parent that a place needs; see `supervisor.Workers`."""

    def may_start(self) -> bool: ...
    def start_process(self, process: Child, number: int) -> None: ...
    def forget(self, number: int) -> None: ...


class Place:
    """The place of a worker.

    Attributes:
        number: the worker's.
        process: what is there now.
    """

    def __init__(self, number: int, parent: Parent, reactor: IReactorTime) -> None:
        self.number = number
        self.process: Child | None = None
        self._parent = parent
        self._reactor = reactor
        self._early_ends = 0
        self._next_start: IDelayedCall | None = None
        self._stopping = False
        self._waiting: Waiters[None] = Waiters()

    def start(self) -> None:
        """Start a process, as soon as that is possible."""
        self._next_start = None
        if not self._parent.may_start():
            self._next_start = self._reactor.callLater(_AFTER_RELOAD_SECONDS, self.start)
            return
        process = Child(self, self._parent, self._reactor)
        self.process = process
        try:
            self._parent.start_process(process, self.number)
        except OSError as error:  # no more processes or descriptors
            self._ended(process, str(error))

    def _start_again(self) -> None:
        RESTARTS.inc()
        self.start()

    def process_ended(self, process: Child, reason: Failure) -> None:
        """Take note of the end of the process."""
        how = "it ended by itself"
        if isinstance(reason.value, ProcessTerminated):
            error = reason.value
            by_signal = error.signal is not None
            how = (
                f"by {signal.Signals(error.signal).name}"
                if by_signal
                else f"with exit code {error.exitCode}"
            )
        self._ended(process, how)

    def _ended(self, process: Child, how: str) -> None:
        lasted = self._reactor.seconds() - process.started
        self.process = None
        self._parent.forget(self.number)
        if self._stopping:
            self._waiting.tell(None)
            return
        self._early_ends = self._early_ends + 1 if lasted < STABLE_SECONDS else 0
        pause = pause_after(self._early_ends)
        log.error(
            "a worker ended, and is replaced",
            worker=self.number,
            how=how,
            after_seconds=f"{lasted:.1f}",
            pause_seconds=f"{pause:.0f}",
        )
        self._next_start = self._reactor.callLater(pause, self._start_again)

    def ping(self, passed: float) -> None:
        """See that the process is alive; so many seconds have passed since the last time."""
        if self.process is not None:
            self.process.ping(passed)

    def stop(self) -> Deferred[Any]:
        """Have no process any more; fires when the one that is there accepts no clients."""
        self._stopping = True
        if self._next_start is not None:
            self._next_start.cancel()
            self._next_start = None
        return succeed(None) if self.process is None else self.process.stop()

    def gone(self) -> Deferred[None]:
        """Return a Deferred that fires when there is no process; it may be cancelled."""
        if self.process is None:
            return succeed(None)
        return self._waiting.wait()

    def kill(self) -> None:
        """End the process, now."""
        if self.process is not None:
            log.warn("a worker did not stop in time, and is killed", worker=self.number)
            self.process.signal("KILL")


def pause_after(early_ends: int) -> float:
    """Return the seconds to wait after so many processes in a row that did not last."""
    if early_ends <= 1:
        return 0.0
    return float(min(MAX_PAUSE, 2.0 ** (min(early_ends, 30) - 2)))
