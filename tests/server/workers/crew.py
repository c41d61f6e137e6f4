"""A parent whose workers are no processes, and a worker without a parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.test import iosim

from telemeter.config.files import Contents
from telemeter.server.workers.control import (
    Commit,
    Configure,
    Control,
    Ping,
    Prepare,
    Ready,
    Setup,
    Stop,
    decode_files,
)
from telemeter.server.workers.supervisor import Workers
from telemeter.web.site.listener import Listening
from tests.tap.world import FakeReactor


def connect(one: Control, other: Control) -> iosim.IOPump:
    """Connect two ends; what they say arrives when the result is flushed."""
    pump: iosim.IOPump = iosim.connect(
        one, iosim.FakeTransport(one, isServer=True), other, iosim.FakeTransport(other, False)
    )
    return pump


class WorkerEnd(Control):
    """A worker's end of the connection, which does as it is told.

    Attributes:
        told: the commands that it got, with what they were about.
        setup: what it was told to serve with.
        problem: why it cannot use other files.
        silent: the commands that it does not answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []
        self.setup: Setup
        self.problem = ""
        self.silent: set[str] = set()
        self._ping: Deferred[dict[str, object]] = succeed({})

    def _done(self, told: object, **answer: object) -> Any:
        self.told.append(told)
        name = told if isinstance(told, str) else "prepare"
        return Deferred() if name in self.silent else answer

    @Configure.responder
    def configure(self) -> Any:
        self.setup = Setup.decode(self.take_pieces())
        return self._done("configure")

    @Prepare.responder
    def prepare(self, only_certificates: bool) -> Any:
        told = ("prepare", decode_files(self.take_pieces()), only_certificates)
        return self._done(told, problem=self.problem)

    @Commit.responder
    def commit(self) -> Any:
        return self._done("commit")

    @Ping.responder
    def ping(self) -> Any:
        self._ping = Deferred() if "ping" in self.silent else succeed({})
        return self._ping

    def answer_pings(self) -> None:
        """Answer, late."""
        if not self._ping.called:
            self._ping.callback({})

    @Stop.responder
    def stop(self) -> Any:
        return self._done("stop")

    def ready(self, ready: bool = True) -> None:
        """Say so."""
        self.callRemote(Ready, ready=ready)


class FakeProcess:
    """A worker's process.

    Attributes:
        number: the worker's.
        descriptors: what it has inherited.
        end: of the control connection.
        signals: those that it got.
        alive: whether it has not ended.
    """

    def __init__(
        self, protocol: Any, pid: int, args: list[str], descriptors: dict[int, Any]
    ) -> None:
        self.protocol = protocol
        self.pid = pid
        self.number = int(args[-1])
        self.descriptors = descriptors
        self.end = WorkerEnd()
        self.pump: Any = None
        self.signals: list[str] = []
        self.alive = True
        self.stdin_is_open = True

    def closeStdin(self) -> None:
        self.stdin_is_open = False

    def signalProcess(self, name: str) -> None:
        if not self.alive:
            raise ProcessExitedAlready
        self.signals.append(name)

    def ended(self, code: int | None = None, signal: int | None = None) -> None:
        """Be no more."""
        self.alive = False
        self.pump.client.transport.loseConnection()
        self.pump.flush()
        done = ProcessDone(0) if code == 0 else ProcessTerminated(code, signal)
        self.protocol.processEnded(Failure(done))


class FakePort:
    """A port that nobody can connect to."""

    def __init__(self) -> None:
        self.reading = True
        self.closes = 0

    def fileno(self) -> int:
        return 99

    def getHost(self) -> str:
        return "nowhere"

    def stopReading(self) -> None:
        self.reading = False

    def stopListening(self) -> None:
        self.closes += 1


class CrewReactor(FakeReactor):
    """Starts no processes.

    Attributes:
        processes: those that it would have started.
        no_more: what happens instead of a start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.no_more: OSError | None = None

    def spawnProcess(
        self, protocol: Any, executable: str, args: list[str], env: Any, childFDs: dict[int, Any]
    ) -> None:
        if self.no_more is not None:
            raise self.no_more
        process = FakeProcess(protocol, 1000 + len(self.processes), args, childFDs)
        self.processes.append(process)
        protocol.makeConnection(process)

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Factory) -> None:
        control: Any = factory.buildProtocol(UNIXAddress(None))
        process = self.processes[-1]
        process.pump = connect(control, process.end)


class Parent:
    """A parent of two workers.

    Attributes:
        lines: the lines of workers that it has passed on.
    """

    def __init__(self, ask: Callable[[bytes], Any] | None = None) -> None:
        self.reactor = CrewReactor()
        self.port = FakePort()
        self.lines: list[str] = []
        self.setup = Setup(2, ["--flag"], {"file": b"1"}, b"key", b"")
        listening = Listening(
            self,  # type: ignore[arg-type]
            Factory(),
            flag="listen",
            address="nowhere",
            program="toy",
        )
        self.workers = Workers(self.reactor, listening, self.setup, None, ask, self.lines.append)

    def listen(self, factory: Factory) -> Deferred[FakePort]:
        return succeed(self.port)

    def start(self) -> None:
        """Start, and have both workers be ready."""
        self.workers.privilegedStartService()
        self.workers.startService()
        self.flush()
        for process in self.processes:
            process.end.ready()
        self.flush()

    @property
    def processes(self) -> list[FakeProcess]:
        """Those that run, by the numbers of the workers."""
        alive = (process for process in self.reactor.processes if process.alive)
        return sorted(alive, key=lambda process: process.number)

    def flush(self) -> None:
        """Let everybody hear what was said."""
        while any(process.pump.pump() for process in self.reactor.processes):
            pass

    def told(self, number: int) -> list[object]:
        """What a worker was told since the last time."""
        self.flush()
        end = self.processes[number].end
        told, end.told = end.told, []
        return told

    def reload(self, files: Contents, **more: Any) -> Deferred[None]:
        """Have the workers use other files."""
        using = Deferred.fromCoroutine(self.workers.reload(files, **more))
        self.flush()
        return using

    def end(self) -> None:
        """Stop all that is left."""
        stopping = self.workers.stopService()
        self.flush()
        for process in self.processes:
            process.ended(0)
        assert stopping.called
