"""A worker's process, as its parent has it: what it is told, and what it says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from prometheus_client import Counter
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionClosed, ProcessExitedAlready
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.protocols.amp import Command
from twisted.python.failure import Failure

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.auth.cache import AskParent
from telemeter.config.files import Contents
from telemeter.loop.timeouts import Timeouts
from telemeter.server.workers.control import (
    CheckToken,
    Commit,
    Configure,
    Control,
    Ping,
    Prepare,
    Ready,
    Report,
    Setup,
    Stop,
    encode_files,
    short,
)

SILENT: Final = Counter(
    "telemeter_worker_silences_total",
    "Worker processes that were killed because they gave no sign of life.",
)

#: The longest line of a worker, in bytes.
_MAX_LINE: Final = 65536

#: Takes the number of a worker and the body of its report.
ReportHandler: TypeAlias = Callable[[int, bytes], None]

log = Logger()


class Parent(Protocol):
    """The part of the parent that a worker's process needs; see `supervisor.Workers`.

    Attributes:
        reports: what to do with the reports of workers, by kind.
        ask: asks the authorization server, if there is one.
        pass_on: takes a line of a worker's log.
        timeouts: how long a worker may take.
    """

    reports: dict[str, ReportHandler]
    ask: AskParent | None
    pass_on: Callable[[str], None]
    timeouts: Timeouts

    def readiness_changed(self) -> None: ...


class Owner(Protocol):
    """The place of a process; see `place.Place`."""

    number: int

    def process_ended(self, process: Child, reason: Failure) -> None: ...


class Child(ProcessProtocol):
    """A worker's process.

    Attributes:
        control: the connection to it.
        ready: whether it wants requests.
        started: when it was.
    """

    def __init__(self, place: Owner, parent: Parent, reactor: IReactorTime) -> None:
        self.control = ParentControl(self, parent)
        self.ready = False
        self.started: float = reactor.seconds()
        self.number = place.number
        self._place = place
        self._parent = parent
        self._timeouts = parent.timeouts
        self._reactor = reactor
        self._configured = False
        self._output = b""
        self._asked = 0  # how many commands it has not answered
        self._is_pinged = False
        self._silent = 0.0
        self._excused = 0.0
        self._given_up = False

    @property
    def pid(self) -> int:
        # Twisted has forgotten it already between the end of a process and the news of that.
        return int(self.transport.pid or 0) if self.transport is not None else 0

    # --- What it is told ------------------------------------------------------------------------

    def send(self, command: type[Command], seconds: float, **arguments: Any) -> Deferred[Any]:
        """Send a command; the answer must come within some seconds."""
        answer: Deferred[Any] = self.control.callRemote(command, **arguments)
        self._asked += 1
        return answer.addTimeout(seconds, self._reactor).addBoth(self._answered)

    def _answered(self, answer: Any) -> Any:
        self._asked -= 1
        return answer

    def configure(self, setup: Setup) -> None:
        """Tell it how to serve."""
        self.control.send_pieces(setup.encode())
        self.send(Configure, self._timeouts.worker_start).addCallbacks(
            self._is_configured, self.replace
        )

    def _is_configured(self, answer: object) -> None:
        self._configured = True

    def prepare(self, files: Contents, only_certificates: bool) -> Deferred[str]:
        """Have it make ready for other files; fires with why it cannot, or nothing."""
        self.control.send_pieces(encode_files(files))
        # One that is still starting hears of it when it has.
        seconds = self._timeouts.worker_answer if self._configured else self._timeouts.worker_start
        answer = self.send(Prepare, seconds, only_certificates=only_certificates)
        return answer.addCallbacks(lambda found: found["problem"], self._not_prepared)

    def _not_prepared(self, failure: Failure) -> str:
        if failure.check(ConnectionClosed):
            return ""  # it is gone: the next one gets what is in use then
        return f"worker {self.number} gives no answer: {failure.getErrorMessage()}"

    def commit(self) -> Deferred[Any]:
        """Have it use what it made."""
        return self.send(Commit, self._timeouts.worker_answer).addErrback(self.replace)

    def replace(self, failure: Failure) -> None:
        """Give up on a process that does not do as it is told."""
        if not failure.check(ConnectionClosed):  # then it has ended, or is about to
            log.failure("a worker does not obey, and is killed", failure, worker=self.number)
            self.signal("KILL")

    def ping(self, passed: float) -> None:
        """Ask it for a sign of life, or wait for one for so long and no longer.

        While it thinks about other files it may be busy for as long as it has for that.

        Args:
            passed: for how many seconds this process has waited since the last call.
        """
        if not self._configured or self._given_up:
            return
        if not self._is_pinged:
            self._is_pinged = True
            self._silent = self._excused = 0.0
            self.control.callRemote(Ping).addCallbacks(self._lives, lambda failure: None)
        elif self._asked and self._excused < self._timeouts.worker_answer:
            self._excused += passed
        else:
            self._silent += passed
            if self._silent >= self._timeouts.worker_silence:
                self._give_up()

    def _lives(self, answer: object) -> None:
        self._is_pinged = False

    def _give_up(self) -> None:
        self._given_up = True
        SILENT.inc()
        log.error(
            "a worker gives no sign of life, and is killed",
            worker=self.number,
            pid=self.pid,
            seconds=f"{self._silent + self._excused:.0f}",
        )
        self.signal("KILL")

    def stop(self) -> Deferred[Any]:
        """Have it stop; fires when it accepts no clients, or gives no answer."""
        if not self._configured:  # so it has no clients
            self.signal("TERM")
            return succeed(None)
        return self.send(Stop, self._timeouts.worker_stop_answer).addErrback(lambda _: None)

    def signal(self, name: str) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessExitedAlready):
            assert self.transport is not None
            self.transport.signalProcess(name)

    # --- What it says ---------------------------------------------------------------------------

    def set_ready(self, ready: bool) -> None:
        """Take note that the worker wants requests, or wants them no longer."""
        self.ready = ready
        self._parent.readiness_changed()

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
            self._parent.pass_on(line)
        elif line.strip():  # no log line: what Python itself has to say, of a crash for example
            log.warn("a worker printed", worker=self.number, line=line)

    def processEnded(self, reason: Failure) -> None:
        self.errReceived(b"\n")
        self._place.process_ended(self, reason)


class ParentControl(Control):
    """The parent's end of the connection to a worker."""

    def __init__(self, process: Child, parent: Parent) -> None:
        super().__init__()
        self._process = process
        self._parent = parent

    @Ready.responder
    def _ready(self, ready: bool) -> dict[str, object]:
        self._process.set_ready(ready)
        return {}

    @CheckToken.responder
    def _check(self, question: bytes) -> Deferred[dict[str, object]]:
        return Deferred.fromCoroutine(self._answer(question))

    async def _answer(self, question: bytes) -> dict[str, object]:
        try:
            if self._parent.ask is None:
                raise UnavailableError("there is no authorization server")
            return {"seconds": await self._parent.ask(question)}
        except RefusedError as error:
            return {"refused": error.status}
        except UnavailableError as error:
            return {"unavailable": short(error)}

    @Report.responder
    def _report(self, kind: str, body: bytes) -> dict[str, object]:
        handle = self._parent.reports.get(kind)
        if handle is None:
            log.warn("a worker reports what nobody wants to know", kind=kind)
            return {}
        try:
            handle(self._process.number, body)
        except Exception:
            log.failure("the report of a worker could not be used", kind=kind)
        return {}
