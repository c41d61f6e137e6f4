"""What the daemons are made of: listeners, and a parent that starts and stops them in order."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TextIO, runtime_checkable

from twisted.application.service import IServiceCollection, MultiService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from telemeter.config.flags import Flags
from telemeter.config.listen import endpoint_maker
from telemeter.loop.signals import Signals
from telemeter.loop.twisted_private import say_in_words_why_nothing_started
from telemeter.observe.log import LEVELS, level_of, make_observer
from telemeter.observe.logfile import LogFile, open_anew
from telemeter.web.site.site import Site

log = Logger()

#: For how many seconds a stop waits for the requests that are under way.
GRACE_SECONDS = 10.0
#: After how many new objects Python looks for circles among them, and after how many such looks it
#: looks further, and then everywhere. A request leaves some fifty objects in circles, none large.
_COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)


def settle_memory() -> None:
    """Leave what is there from the start out of the search for unused objects, and search less.

    Usually Python goes through all of a daemon's objects every few thousand requests, which keeps
    some of them waiting, and through the new ones every ten.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


@runtime_checkable
class Finishing(Protocol):
    """A part of a daemon that lets requests finish when it stops.

    Attributes:
        finished: how many it let finish.
    """

    finished: int


class Daemon(MultiService):
    """The service of a whole daemon.

    It logs as logfmt, takes the signals of its process, and stops its children one after the other,
    the last one first: a listener is done with its requests before what answers them goes away.

    Attributes:
        signals: what they do.
    """

    def __init__(self, options: Flags, reactor: Any) -> None:
        super().__init__()
        self.setName(options.program)
        self.signals = Signals(reactor)
        self._reactor = reactor
        self._options = options
        self._runner: Any = getattr(options, "parent", None) or {}
        self._stream: LogFile | TextIO | None = None
        self._is_alone = False  # in its process

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Join the application, and be its log observer unless the user chose another."""
        super().setServiceParent(parent)
        self._is_alone = isinstance(parent, Componentized)
        runner = self._runner
        if not runner.get("nodaemon", True):
            say_in_words_why_nothing_started()
        if "fileLogObserverFactory" in runner:
            self._log_with_twist()
        elif isinstance(parent, Componentized) and not (
            runner.get("logger") or runner.get("syslog")
        ):
            self._stream = self._log_stream()
            observer = make_observer(self._stream, log_level(self._options))
            parent.setComponent(ILogObserver, observer)

    def _log_with_twist(self) -> None:
        """Have twist write what twistd would, unless it was asked for another format."""
        if any(word.startswith("--log-fo") for word in sys.argv):
            return
        runner, level = self._runner, log_level(self._options)
        self._stream = runner["logFile"]
        runner["fileLogObserverFactory"] = lambda stream: make_observer(stream, level)
        if runner["logLevel"] == LogLevel.info:  # which it is unless twist was told another
            runner["logLevel"] = LEVELS[level]

    def _log_stream(self) -> LogFile | TextIO:
        """Return where twistd was told to log: a file, or standard error."""
        name = self._runner.get("logfile")
        if name == "-" or (not name and self._runner.get("nodaemon", True)):
            return sys.stderr
        name = name or "twistd.log"
        try:
            return LogFile(
                name, self._options["rotate-log-bytes"], self._options["rotate-log-files"]
            )
        except OSError as error:
            raise StartError(
                f"{self.name}: --logfile {name!r}: cannot be written: {error.strerror}"
            ) from None

    def _open_log_anew(self) -> None:
        """Go on in the file that has the log's name now, if the log is a file."""
        try:
            if isinstance(self._stream, LogFile):
                self._stream.open_anew()
            elif (file := self._runner.get("logFile")) not in (None, sys.stdout, sys.stderr):
                open_anew(file.fileno(), os.path.abspath(file.name))  # noqa: PTH100 - twist's
            else:
                return
        except OSError as error:
            log.error(
                "the log file cannot be opened anew, the old one is written on",
                reason=error.strerror,
                file=error.filename,
            )
        else:
            log.info("the log file is opened anew")

    def privilegedStartService(self) -> None:
        with self._reason_in_log():
            super().privilegedStartService()

    def startService(self) -> None:
        if self._is_alone:
            for number in (signal.SIGHUP, signal.SIGUSR1):
                self.signals.call(number, self._open_log_anew)
            self.signals.start()
        with self._reason_in_log():
            super().startService()
        if self._is_alone:
            settle_memory()

    @contextmanager
    def _reason_in_log(self) -> Iterator[None]:
        """Log why the daemon cannot start.

        Otherwise the reason would come into the log when Python ends. In the background that is
        after twistd has told its caller to look there; in the foreground with a log file, it would
        come nowhere else.
        """
        try:
            yield
        except StartError as error:
            if "nodaemon" in self._runner:  # twistd, whose log has begun by now
                log.critical(str(error))
                if self._stream is not sys.stderr and self._runner["nodaemon"]:
                    print(error, file=sys.__stderr__)
                error.code = 1  # instead of the text, which Python would print
            raise

    def pass_on(self, line: str) -> None:
        """Write a line that another process of this daemon has logged, without its end."""
        if self._stream is None:
            log.emit(level_of(line), "{line}", line=line)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    @property
    def finished(self) -> int:
        """How many requests were let finish since the daemon was told to stop."""
        return sum(child.finished for child in self if isinstance(child, Finishing))

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        began = self._reactor.seconds()
        if self._is_alone:
            log.info("stopping", signal=self.signals.stopped_by or "none")
            self.signals.stop()
        Service.stopService(self)
        for child in reversed(list(self)):
            try:
                await _deferred(child.stopService())
            except Exception:
                log.failure("a part of the daemon did not stop as it should")
        if self._is_alone:
            seconds = f"{self._reactor.seconds() - began:.1f}"
            log.info("stopped", requests=self.finished, seconds=seconds)


def _deferred(result: Any) -> Deferred[Any]:
    if isinstance(result, Deferred):
        return result
    done: Deferred[Any] = Deferred()
    done.callback(result)
    return done


def log_level(options: Flags) -> str:
    """From which level on a daemon logs."""
    return "debug" if options["verbose"] else str(options["log-level"])


class StartError(SystemExit, Exception):
    """Ends the program with one line, because it cannot start.

    It is an Exception for twistd, which tells of no other to the process that waits for the daemon
    in the background: that would wait for ever.
    """


class Listening(Service):
    """Listens at an address, and does nothing with those who connect."""

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        *,
        flag: str,
        address: str,
        program: str,
    ) -> None:
        """Make one.

        Args:
            endpoint: where to listen.
            factory: who takes the connections.
            flag: the flag that says where, for messages.
            address: what it says.
            program: whom it tells.
        """
        self._endpoint = endpoint
        self._factory = factory
        self._flag = flag
        self._address = address
        self._program = program
        self.port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen; while twistd still has the rights to open low ports."""
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._listening, failures.append)
        if failures:
            raise StartError(f"{self._program}: {self._cannot_listen(failures[0].value)}")
        super().privilegedStartService()

    def startService(self) -> None:
        super().startService()
        if self.port is None:  # twist, unlike twistd, calls nothing but this
            self.privilegedStartService()

    def _listening(self, port: IListeningPort) -> None:
        self.port = port
        host = port.getHost()
        where = str(host)
        if isinstance(host, IPv4Address | IPv6Address):
            where = f"{host.host}:{host.port}"
        log.info("listening", flag=f"--{self._flag}", address=where)

    def _cannot_listen(self, error: BaseException | None) -> str:
        reason = error.socketError if isinstance(error, CannotListenError) else error
        if reason is error and isinstance(error, OSError):
            reason = error.strerror  # without the path, which is bytes
        return f"--{self._flag} {self._address!r}: cannot listen there: {reason}"

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await _deferred(super().stopService())
        if self.port is not None:
            await _deferred(self.port.stopListening())


class Listener(Listening):
    """Serves a site at an address, and lets its requests finish when it stops.

    Attributes:
        finished: how many it let finish.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        site: Site,
        factory: IProtocolFactory,
        *,
        flag: str,
        address: str,
        program: str,
    ) -> None:
        super().__init__(endpoint, factory, flag=flag, address=address, program=program)
        self.finished = 0
        self._reactor = reactor
        self._site = site

    async def _stop(self) -> None:
        before = self._site.over
        await super()._stop()
        if self.port is None:
            return
        try:
            await self._site.drain().addTimeout(GRACE_SECONDS, self._reactor)
        except (TimeoutError, CancelledError):
            log.warn(
                "requests were still under way when the time to stop was over",
                requests=len(self._site.active),
                seconds=GRACE_SECONDS,
            )
        self.finished = self._site.over - before
        self._site.abort()


def listener_of(options: Flags, reactor: Any, site: Site) -> Listener:
    """What serves a site at `--listen`, without TLS."""
    return Listener(
        reactor,
        endpoint_maker(options["listen"])(reactor),
        site,
        site,
        flag="listen",
        address=options["listen"],
        program=options.program,
    )


class OnStop(Service):
    """Calls something when the daemon stops: the last child is the first to know."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def stopService(self) -> Any:
        super().stopService()
        return self._call()
