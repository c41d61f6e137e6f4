"""The parent's side: starts the workers, replaces those that die, and speaks for all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from prometheus_client import Counter, Gauge
from prometheus_client.multiprocess import mark_process_dead
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.error import ConnectionClosed, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.protocols.amp import Command
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.auth.cache import Ask
from telemeter.config.files import Contents
from telemeter.limits.ratelimit import shared_memory
from telemeter.loop.services import GRACE_SECONDS
from telemeter.loop.signals import held_back
from telemeter.loop.waiters import Waiters
from telemeter.server.workers.accept import Connections
from telemeter.server.workers.control import (
    CONNECTIONS_FD,
    CONTROL_FD,
    FINISHED,
    LISTEN_FD,
    TABLE_FD,
    Check,
    Commit,
    Configure,
    Control,
    Prepare,
    Ready,
    Report,
    Setup,
    Stop,
    encode_files,
    short,
)
from telemeter.web.site.listener import Listening

WORKERS: Final = Gauge(
    "telemeter_workers",
    "Worker processes that answer clients; 0 if the only process does.",
    multiprocess_mode="mostrecent",
)
RESTARTS: Final = Counter(
    "telemeter_worker_restarts_total", "Worker processes started in place of one that ended."
)

#: A worker that ends earlier than this, in seconds after its start, is in trouble.
STABLE_SECONDS: Final = 10.0
#: The longest pause before the next try, in seconds.
MAX_PAUSE: Final = 30.0
#: For how many seconds a worker may start, think about other files, and take to obey.
_START_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 10.0
_OBEY_SECONDS: Final = 1.0
#: For how many seconds workers may take to end: their requests have `GRACE_SECONDS`.
_STOP_SECONDS: Final = GRACE_SECONDS + 1.5
_KILL_SECONDS: Final = 5.0
#: How long the wait is when a reload must not be disturbed.
_AFTER_RELOAD_SECONDS: Final = 0.1
#: The longest line of a worker, in bytes.
_MAX_LINE: Final = 65536

#: Takes the number of a worker and the body of its report.
ReportHandler: TypeAlias = Callable[[int, bytes], None]

log = Logger()


class Workers(Service):
    """The workers of a server.

    Attributes:
        finished: how many requests they let finish when they stopped.
        folder: where they keep their metrics; None before the start.
        reports: what to do with the reports of workers, by kind.
    """

    def __init__(
        self,
        reactor: Any,
        listening: Listening,
        setup: Setup,
        table: int | None,
        ask: Ask | None,
        pass_on: Callable[[str], None],
    ) -> None:
        """Make them; they are started with the service.

        Args:
            reactor: starts processes and tells the time.
            listening: has the port that they accept at. It is started and stopped here.
            setup: how many there are, and what they serve with.
            table: the descriptor of the rate limit's table, if there is one.
            ask: asks the authorization server, if there is one.
            pass_on: takes a line of a worker's log.
        """
        self.finished = 0
        self.folder: Path | None = None
        self.reports: dict[str, ReportHandler] = {FINISHED: self._have_finished}
        self.ask = ask
        self.pass_on = pass_on
        self._reactor = reactor
        self._listening = listening
        self._setup = setup
        self._table = table
        self._connections_fd = shared_memory("telemeter-connections")
        self._connections = Connections(self._connections_fd, setup.workers)
        self._slots = [_Slot(number, self, reactor) for number in range(setup.workers)]
        self._were_ready = False
        self._reloading = False

    @property
    def ready(self) -> bool:
        """Whether clients are answered: after the start by all workers, later by one at least."""
        return self._were_ready and any(self._ready())

    def pids(self) -> dict[int, int]:
        """Return the processes that run, by the numbers of the workers."""
        return {slot.number: slot.process.pid for slot in self._slots if slot.process is not None}

    def _ready(self) -> Iterator[bool]:
        return (slot.process is not None and slot.process.ready for slot in self._slots)

    def readiness_changed(self) -> None:
        """Take note that a worker has become ready, or is ready no longer."""
        ready = list(self._ready())
        WORKERS.set(sum(ready))
        self._were_ready = self._were_ready or all(ready)

    def forget(self, number: int) -> None:
        """Forget a worker that has ended: nothing is under way there."""
        self._connections.leave(number)
        mark_process_dead(number, str(self.folder))  # its gauges only; counters go on
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
        self.folder = Path(tempfile.mkdtemp(prefix="telemeter-server-"))
        for slot in self._slots:
            self._connections.leave(slot.number)
            slot.start()

    def _leave_connections_to_workers(self) -> None:
        port: Any = self._listening.port
        port.stopReading()

    def may_start(self) -> bool:
        """Whether a worker may be started just now: not between the steps of a reload."""
        return not self._reloading

    def start_process(self, process: _Process, number: int) -> None:
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
        try:
            with held_back():
                self._reactor.spawnProcess(
                    process,
                    sys.executable,
                    [sys.executable, "-P", "-m", "telemeter.server.workers", str(number)],
                    env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self.folder)},
                    childFDs=descriptors,
                )
            self._reactor.adoptStreamConnection(
                ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: process.control)
            )
        finally:
            ours.close()
            theirs.close()
        process.configure(self._setup)

    # --- Reload -----------------------------------------------------------------------------------

    async def use(self, files: Contents, *, only_certificates: bool = False) -> None:
        """Have all workers use what the files hold now, or none.

        Args:
            files: their contents.
            only_certificates: whether only those that the listener shows are read.

        Raises:
            UsageError: a worker cannot use it; nothing has changed.
        """
        self._reloading = True
        try:
            processes = [slot.process for slot in self._slots if slot.process is not None]
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
        await DeferredList([slot.stop() for slot in self._slots])
        # Only now: closing the port shuts the socket down for all who have it.
        await self._listening.stopService()
        await self._all_gone_within(_STOP_SECONDS)
        for slot in self._slots:
            slot.kill()
        await self._all_gone_within(_KILL_SECONDS)

    def _have_finished(self, number: int, body: bytes) -> None:
        self.finished += int(body)

    async def _all_gone_within(self, seconds: float) -> None:
        gone = DeferredList([slot.gone() for slot in self._slots], consumeErrors=True)
        await gone.addTimeout(seconds, self._reactor)

    def end_at_once(self) -> None:
        """Have nothing of the workers outlive this process, which is about to end."""
        for pid in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.remove_folder()

    def remove_folder(self) -> None:
        """Forget the metrics of workers."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class _Slot:
    """The place of a worker: the process that is there, or when there will be another.

    Attributes:
        number: the worker's.
        process: what is there now.
    """

    def __init__(self, number: int, workers: Workers, reactor: Any) -> None:
        self.number = number
        self.process: _Process | None = None
        self._workers = workers
        self._reactor = reactor
        self._early_ends = 0
        self._next_start: IDelayedCall | None = None
        self._stopping = False
        self._waiting: Waiters[None] = Waiters()

    def start(self) -> None:
        """Start a process, as soon as that is possible."""
        self._next_start = None
        if not self._workers.may_start():
            self._next_start = self._reactor.callLater(_AFTER_RELOAD_SECONDS, self.start)
            return
        process = _Process(self, self._workers, self._reactor)
        self.process = process
        try:
            self._workers.start_process(process, self.number)
        except OSError as error:  # no more processes or descriptors
            self._ended(process, str(error))

    def _start_again(self) -> None:
        RESTARTS.inc()
        self.start()

    def process_ended(self, process: _Process, reason: Failure) -> None:
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

    def _ended(self, process: _Process, how: str) -> None:
        lasted = self._reactor.seconds() - process.started
        self.process = None
        self._workers.forget(self.number)
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


class _Process(ProcessProtocol):
    """A worker's process.

    Attributes:
        control: the connection to it.
        ready: whether it wants requests.
        started: when it was.
    """

    def __init__(self, slot: _Slot, workers: Workers, reactor: Any) -> None:
        self.control = _ParentControl(self, workers)
        self.ready = False
        self.started: float = reactor.seconds()
        self.number = slot.number
        self._slot = slot
        self._workers = workers
        self._reactor = reactor
        self._configured = False
        self._output = b""

    @property
    def pid(self) -> int:
        return int(self.transport.pid) if self.transport is not None else 0

    # --- What it is told ------------------------------------------------------------------------

    def send(self, command: type[Command], seconds: float, **arguments: Any) -> Deferred[Any]:
        """Send a command; the answer must come within some seconds."""
        answer: Deferred[Any] = self.control.callRemote(command, **arguments)
        return answer.addTimeout(seconds, self._reactor)

    def configure(self, setup: Setup) -> None:
        """Tell it how to serve."""
        self.control.send_pieces(setup.encode())
        self.send(Configure, _START_SECONDS).addCallbacks(self._is_configured, self.replace)

    def _is_configured(self, answer: object) -> None:
        self._configured = True

    def prepare(self, files: Contents, only_certificates: bool) -> Deferred[str]:
        """Have it make ready for other files; fires with why it cannot, or nothing."""
        self.control.send_pieces(encode_files(files))
        # One that is still starting hears of it when it has.
        seconds = _ANSWER_SECONDS if self._configured else _START_SECONDS
        answer = self.send(Prepare, seconds, only_certificates=only_certificates)
        return answer.addCallbacks(lambda found: found["problem"], self._not_prepared)

    def _not_prepared(self, failure: Failure) -> str:
        if failure.check(ConnectionClosed):
            return ""  # it is gone: the next one gets what is in use then
        return f"worker {self.number} gives no answer: {failure.getErrorMessage()}"

    def commit(self) -> Deferred[Any]:
        """Have it use what it made."""
        return self.send(Commit, _ANSWER_SECONDS).addErrback(self.replace)

    def replace(self, failure: Failure) -> None:
        """Give up on a process that does not do as it is told."""
        if not failure.check(ConnectionClosed):  # then it has ended, or is about to
            log.failure("a worker does not obey, and is killed", failure, worker=self.number)
            self.signal("KILL")

    def stop(self) -> Deferred[Any]:
        """Have it stop; fires when it accepts no clients, or gives no answer."""
        if not self._configured:  # so it has no clients
            self.signal("TERM")
            return succeed(None)
        return self.send(Stop, _OBEY_SECONDS).addErrback(lambda _: None)

    def signal(self, name: str) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessExitedAlready):
            assert self.transport is not None
            self.transport.signalProcess(name)

    # --- What it says ---------------------------------------------------------------------------

    def is_ready(self, ready: bool) -> None:
        """Take note that the worker wants requests, or wants them no longer."""
        self.ready = ready
        self._workers.readiness_changed()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.errReceived(data)

    def errReceived(self, data: bytes) -> None:
        *lines, self._output = (self._output + data).split(b"\n")
        if len(self._output) > _MAX_LINE:
            lines.append(self._output)
            self._output = b""
        for line in lines:
            self._say(line.decode("utf-8", "replace"))

    def _say(self, line: str) -> None:
        if line.startswith("ts="):
            self._workers.pass_on(line)
        elif line.strip():  # no log line: what Python itself has to say, of a crash for example
            log.warn("a worker printed", worker=self.number, line=line)

    def processEnded(self, reason: Failure) -> None:
        self.errReceived(b"\n")
        self._slot.process_ended(self, reason)


class _ParentControl(Control):
    """The parent's end of the connection to a worker."""

    def __init__(self, process: _Process, workers: Workers) -> None:
        super().__init__()
        self._process = process
        self._workers = workers

    @Ready.responder
    def _ready(self, ready: bool) -> dict[str, object]:
        self._process.is_ready(ready)
        return {}

    @Check.responder
    def _check(self, question: bytes) -> Deferred[dict[str, object]]:
        return Deferred.fromCoroutine(self._answer(question))

    async def _answer(self, question: bytes) -> dict[str, object]:
        try:
            if self._workers.ask is None:
                raise UnavailableError("there is no authorization server")
            return {"seconds": await self._workers.ask(question)}
        except RefusedError as error:
            return {"refused": error.status}
        except UnavailableError as error:
            return {"unavailable": short(error)}

    @Report.responder
    def _report(self, kind: str, body: bytes) -> dict[str, object]:
        handle = self._workers.reports.get(kind)
        if handle is None:
            log.warn("a worker reports what nobody wants to know", kind=kind)
            return {}
        try:
            handle(self._process.number, body)
        except Exception:
            log.failure("the report of a worker could not be used", kind=kind)
        return {}
