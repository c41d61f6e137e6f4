"""The worker's side: a process that answers clients for its parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Final

from twisted.internet import defer
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.auth.keys import load_key
from telemeter.config.files import Contents, reading_from
from telemeter.config.groups import log_level
from telemeter.config.listen_address import at_address
from telemeter.config.server_options import Options
from telemeter.config.values import text
from telemeter.limits.ratelimit import Table
from telemeter.loop.clocks import WallClock
from telemeter.loop.memory import settle_memory
from telemeter.loop.services import OrderedServices
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.loop.turns import turn
from telemeter.observe.log import make_observer
from telemeter.server import start_order
from telemeter.server.endpoints import Endpoints, Shared
from telemeter.server.fleet import reporter
from telemeter.server.workers.accept import Connections, InheritedEndpoint
from telemeter.server.workers.control import (
    CONNECTIONS_FD,
    CONTROL_FD,
    FINISHED,
    LISTEN_FD,
    MAX_REPORT,
    TABLE_FD,
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
    decode_files,
    short,
)

#: How many bytes of reports the parent may leave unanswered.
_MAX_REPORTS: Final = 1 << 20
#: For how many seconds beyond its requests a worker may stop; then the system ends it.
_STOP_SECONDS: Final = 5


class WorkerOptions(Options):
    """The flags of the parent, which has already made sure that it can listen."""

    flags: ClassVar = tuple(
        replace(flag, parse=text) if flag.name in ("listen", "listen-internal") else flag
        for flag in Options.flags
    )

    def require_listen(self, *names: str) -> None:
        """Nothing is looked up again."""


class BusyError(Exception):
    """The parent has not yet read former reports."""


class Worker:
    """A worker, which serves until it is told to stop or its parent is gone.

    Attributes:
        control: the connection to the parent.
        timeouts: those of the configuration, once it is there.
    """

    def __init__(self, reactor: Any, wall: WallClock, number: int) -> None:
        """Make it.

        Args:
            reactor: what it runs on.
            wall: tells the time of day.
            number: tells the worker from the others.
        """
        self.control = WorkerControl(self, reactor)
        self.timeouts = TIMEOUTS
        self._reactor = reactor
        self._wall = wall
        self._number = number
        self._options: WorkerOptions
        self._endpoints: Endpoints
        self._prepared: Any = None
        self._stopping = False

    def run(self) -> None:
        """Serve until the end."""
        reactor = self._reactor
        factory = Factory.forProtocol(lambda: self.control)
        factory.noisy = False
        os.set_blocking(CONTROL_FD, False)
        reactor.adoptStreamConnection(CONTROL_FD, socket.AF_UNIX, factory)
        os.close(CONTROL_FD)
        reactor.addSystemEventTrigger("before", "shutdown", self._stops)
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(self.stop))
        reactor.run(installSignalHandlers=False)

    def configure(self, setup: Setup) -> None:
        """Begin to serve; what cannot work ends the process, and the log says why."""
        try:
            self._configure(setup)
        except SystemExit as error:
            print(error, file=sys.stderr)
        except Exception:
            traceback.print_exc()
        else:
            return
        sys.stderr.flush()
        os._exit(1)

    def _configure(self, setup: Setup) -> None:
        self._options = options = WorkerOptions()
        with reading_from(setup.files):
            options.parseOptions(setup.arguments)
        observer = make_observer(sys.stderr, log_level(options), worker=self._number)
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
        table = None
        if setup.table_key:
            table = Table(descriptor=TABLE_FD, key=setup.table_key)
        attempts = None
        config = options.config
        self.timeouts = config.timeouts
        if config.fleet.max_clusters:
            attempts = reporter(self.control.report, self._reactor, self._wall)
        shared = Shared(load_key(setup.key), table, self.control.ask, attempts)
        self._endpoints = endpoints = Endpoints(config, self._reactor, self._wall, shared)
        endpoints.health.changed = self.control.tell_ready
        connections = Connections(CONNECTIONS_FD, setup.workers)
        inherited = InheritedEndpoint(self._reactor, LISTEN_FD, connections, self._number)
        endpoint = at_address(config.listen.address, inherited, self._reactor, config.timeouts)
        daemon = OrderedServices()
        listener = endpoints.client_listener(endpoint)
        for service in start_order.of_worker(endpoints, attempts, client_listener=listener):
            service.setServiceParent(daemon)
        daemon.privilegedStartService()
        daemon.startService()
        settle_memory()
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop_serving, daemon)
        self.control.tell_ready(endpoints.health.ready)

    def prepare(self, files: Contents, only_certificates: bool) -> str:
        """Make what files are needed for; returns why that is not possible, or nothing."""
        try:
            with reading_from(files):
                if only_certificates:
                    tls = self._options.read_certificates().tls
                    self._prepared = lambda: self._endpoints.tls.reload(tls)
                else:
                    config = self._options.read_config()
                    self._prepared = lambda: self._endpoints.reload(config)
        except UsageError as error:
            return str(error)
        return ""

    def commit(self) -> None:
        """Use what was prepared."""
        use, self._prepared = self._prepared, None
        use()

    def stop(self) -> None:
        """Finish what is under way and end; at once if nothing is."""
        if not self._stopping:
            self._stopping = True
            self._reactor.stop()

    def _stops(self) -> None:
        """Take note that the reactor was told to stop, here or by what cannot go on."""
        self._stopping = True
        signal.alarm(int(self.timeouts.stop) + _STOP_SECONDS)

    def _stop_serving(self, daemon: OrderedServices) -> Deferred[None]:
        return Deferred.fromCoroutine(self._finish(daemon))

    async def _finish(self, daemon: OrderedServices) -> None:
        await daemon.stopService()
        with suppress(Exception):  # a parent that is gone, or busy, does not hold this up
            reported = self.control.report(FINISHED, str(daemon.finished).encode())
            await reported.addTimeout(self.timeouts.parent_report, self._reactor)
        # What follows closes all connections, which Twisted does not expect of one in mid-read.
        await turn(self._reactor)


class WorkerControl(Control):
    """The worker's end of the connection to its parent."""

    def __init__(self, worker: Worker, reactor: IReactorTime) -> None:
        super().__init__()
        self._worker = worker
        self._reactor = reactor
        self._unanswered = 0

    # --- What the parent says -------------------------------------------------------------------

    @Configure.responder
    def _configure(self) -> dict[str, object]:
        self._worker.configure(Setup.decode(self.take_pieces()))
        return {}

    @Prepare.responder
    def _prepare(self, only_certificates: bool) -> dict[str, object]:
        files = decode_files(self.take_pieces())
        return {"problem": short(self._worker.prepare(files, only_certificates))}

    @Commit.responder
    def _commit(self) -> dict[str, object]:
        self._worker.commit()
        return {}

    @Ping.responder
    def _ping(self) -> dict[str, object]:
        return {}

    @Stop.responder
    def _stop(self) -> dict[str, object]:
        self._worker.stop()
        return {}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop, because the parent is gone."""
        super().connectionLost(reason)
        self._worker.stop()

    # --- What it is told ------------------------------------------------------------------------

    def tell_ready(self, ready: bool) -> None:
        """Say whether the worker wants requests."""
        self.callRemote(Ready, ready=ready).addErrback(_parent_is_gone)

    async def ask(self, question: bytes) -> float:
        """Ask about a remote-write token.

        Returns:
            For how many seconds the positive answer holds.

        Raises:
            RefusedError: the answer is negative.
            UnavailableError: nobody can say at present.
        """
        seconds = self._worker.timeouts.parent_answer
        asked: Deferred[dict[str, Any]] = self.callRemote(CheckToken, question=question)
        try:
            answer = await asked.addTimeout(seconds, self._reactor)
        except defer.TimeoutError:
            reason = f"no answer within {seconds:g} seconds"
            raise UnavailableError(f"the parent process: {reason}") from None
        except Exception as error:
            raise UnavailableError(f"the parent process: {error}") from error
        if answer.get("seconds") is not None:
            return float(answer["seconds"])
        if answer.get("refused") is not None:
            raise RefusedError(answer["refused"])
        raise UnavailableError(str(answer["unavailable"]))

    def report(self, kind: str, body: bytes) -> Deferred[None]:
        """Tell the parent something.

        Args:
            kind: what it is, as the parent's `Workers.reports` knows it.
            body: up to `MAX_REPORT` bytes.

        Returns:
            None, when the parent has it; or a failure: `BusyError` when too much is on its way
            already, or that of the connection.
        """
        if len(body) > MAX_REPORT:
            raise ValueError(f"a report may have {MAX_REPORT} bytes, this one has {len(body)}")
        if self._unanswered + len(body) > _MAX_REPORTS:
            return fail(BusyError())
        self._unanswered += len(body)

        def answered(result: Any) -> Any:
            self._unanswered -= len(body)
            return result if isinstance(result, Failure) else None

        reported: Deferred[Any] = self.callRemote(Report, kind=kind, body=body)
        return reported.addBoth(answered)


def _parent_is_gone(failure: Failure) -> None:
    """Then `connectionLost` has said so."""
