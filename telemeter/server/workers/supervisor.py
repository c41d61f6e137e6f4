"""The parent's side: starts the workers, replaces those that die, and speaks for all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import Gauge
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.usage import UsageError

from telemeter.auth.cache import AskParent
from telemeter.config.files import Contents
from telemeter.limits.ratelimit import shared_memory
from telemeter.loop.signals import held_back
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.observe.shared import Memory
from telemeter.server.workers.accept import Connections
from telemeter.server.workers.child import Child, ReportHandler
from telemeter.server.workers.control import (
    CONNECTIONS_FD,
    CONTROL_FD,
    FINISHED,
    LISTEN_FD,
    METRICS_FD,
    TABLE_FD,
    Setup,
)
from telemeter.server.workers.place import Place
from telemeter.web.site.listener import Listening

WORKERS: Final = Gauge(
    "telemeter_workers",
    "Worker processes that answer clients; 0 if the only process does.",
    multiprocess_mode="mostrecent",
)

#: How often workers are asked for a sign of life, in seconds.
PING_SECONDS: Final = 2.0

log = Logger()


class Workers(Service):
    """The workers of a server.

    Attributes:
        finished: how many requests they let finish when they stopped.
        metrics: those of each worker that has been started, by its number.
        reports: what to do with the reports of workers, by kind.
    """

    def __init__(
        self,
        reactor: Any,
        listening: Listening,
        setup: Setup,
        table: int | None,
        ask: AskParent | None,
        pass_on: Callable[[str], None],
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """Make them; they are started with the service.

        Args:
            reactor: starts processes and tells the time.
            listening: has the port that they accept at. It is started and stopped here.
            setup: how many there are, and what they serve with.
            table: the descriptor of the rate limit's table, if there is one.
            ask: asks the authorization server, if there is one.
            pass_on: takes a line of a worker's log.
            timeouts: how long workers may take.
        """
        self.finished = 0
        self.metrics: dict[int, Memory] = {}
        self.reports: dict[str, ReportHandler] = {FINISHED: self._have_finished}
        self.ask = ask
        self.pass_on = pass_on
        self.timeouts = timeouts
        self._reactor = reactor
        self._listening = listening
        self._setup = setup
        self._table = table
        self._connections_fd = shared_memory("telemeter-connections")
        self._connections = Connections(self._connections_fd, setup.workers)
        self._places = [Place(number, self, reactor) for number in range(setup.workers)]
        self._were_ready = False
        self._reloading = False
        self._pinging = LoopingCall(self._ping)
        self._pinging.clock = reactor
        self._last_ping = 0.0

    @property
    def ready(self) -> bool:
        """Tell whether clients are answered: at the start by all workers, later by one at least."""
        return self._were_ready and any(self._ready())

    def pids(self) -> dict[int, int]:
        """Return the processes that run, by the numbers of the workers."""
        pids = (
            (place.number, place.process.pid) for place in self._places if place.process is not None
        )
        return {number: pid for number, pid in pids if pid}

    def _ready(self) -> Iterator[bool]:
        return (place.process is not None and place.process.ready for place in self._places)

    def readiness_changed(self) -> None:
        """Take note that a worker has become ready, or is ready no longer."""
        ready = list(self._ready())
        WORKERS.set(sum(ready))
        self._were_ready = self._were_ready or all(ready)

    def forget(self, number: int) -> None:
        """Forget a worker that has ended: nothing is under way there."""
        self._connections.leave(number)
        if number in self.metrics:
            self.metrics[number].forget_living()
        self.readiness_changed()

    # --- Start ------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listening.privilegedStartService()
        self._leave_connections_to_workers()

    def startService(self) -> None:
        super().startService()
        self._listening.startService()
        self._leave_connections_to_workers()
        for place in self._places:
            self._connections.leave(place.number)
            place.start()
        self._last_ping = self._reactor.seconds()
        self._pinging.start(PING_SECONDS, now=False).addErrback(
            lambda failure: log.failure("workers are not watched any more", failure)
        )

    def _ping(self) -> None:
        """See that all workers are alive.

        When this process itself was stopped, with its machine perhaps, or kept from its work, only
        one interval has passed for it: then it hears first what workers have said meanwhile.
        """
        now = self._reactor.seconds()
        passed, self._last_ping = now - self._last_ping, now
        for place in self._places:
            place.ping(min(passed, PING_SECONDS))

    def _leave_connections_to_workers(self) -> None:
        port: Any = self._listening.port
        port.stopReading()

    def may_start(self) -> bool:
        """Return whether a worker may be started just now: not between the steps of a reload."""
        return not self._reloading

    def start_process(self, process: Child, number: int) -> None:
        """Start a worker and tell it how to serve."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        listening: Any = self._listening.port
        # Standard input is a pipe, and closed at once; what is printed is a line for the log.
        descriptors = {0: "w", 1: "r", 2: "r", LISTEN_FD: listening.fileno()}
        descriptors[CONTROL_FD] = theirs.fileno()
        descriptors[CONNECTIONS_FD] = self._connections_fd
        if self._table is not None:
            descriptors[TABLE_FD] = self._table
        metrics = self._metrics_of(number)
        if metrics is not None:
            descriptors[METRICS_FD] = metrics.descriptor
        try:
            with held_back():
                self._reactor.spawnProcess(
                    process,
                    sys.executable,
                    [sys.executable, "-P", "-m", "telemeter.server.workers", str(number)],
                    env=os.environ,
                    childFDs=descriptors,
                )
            self._reactor.adoptStreamConnection(
                ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: process.control)
            )
        finally:
            ours.close()
            theirs.close()
        process.configure(self._setup)

    def _metrics_of(self, number: int) -> Memory | None:
        """Return where a worker counts; None: that is not possible now, and the log says why."""
        if number not in self.metrics:
            try:
                memory = Memory.new(shared_memory(f"telemeter-metrics-{number}"))
            except OSError as error:
                reason = str(error)
                log.error("the metrics of a worker do not count", worker=number, reason=reason)
                return None
            self.metrics[number] = memory
        return self.metrics[number]

    # --- Reload -----------------------------------------------------------------------------------

    async def reload(self, files: Contents, *, only_certificates: bool = False) -> None:
        """Have all workers use what the files hold now, or none.

        Args:
            files: their contents.
            only_certificates: whether only those that the listener shows are read.

        Raises:
            UsageError: a worker cannot use it; nothing has changed.
        """
        self._reloading = True
        try:
            processes = [place.process for place in self._places if place.process is not None]
            asked = [process.prepare(files, only_certificates) for process in processes]
            problems = [await answer for answer in asked]
            for problem in problems:
                if problem:
                    raise UsageError(problem)
            # From here on there is no way back: what cannot follow is replaced.
            self._setup.files |= files
            await DeferredList([process.commit() for process in processes])
        finally:
            self._reloading = False

    # --- Stop -------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        super().stopService()
        if self._pinging.running:
            self._pinging.stop()
        await DeferredList([place.stop() for place in self._places])
        # Only now: closing the port shuts the socket down for all who have it.
        await self._listening.stopService()
        await self._all_gone_within(self.timeouts.stop + self.timeouts.worker_stop)
        for place in self._places:
            place.kill()
        await self._all_gone_within(self.timeouts.worker_kill)

    def _have_finished(self, number: int, body: bytes) -> None:
        self.finished += int(body)

    async def _all_gone_within(self, seconds: float) -> None:
        gone = DeferredList([place.gone() for place in self._places], consumeErrors=True)
        await gone.addTimeout(seconds, self._reactor)

    def end_at_once(self) -> None:
        """Have nothing of the workers outlive this process, which is about to end."""
        for pid in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
