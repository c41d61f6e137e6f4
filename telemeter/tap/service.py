"""What the daemons are made of: listeners, and a parent that starts and stops them in order."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

from twisted.application.service import IServiceCollection, MultiService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from telemeter.observe.log import level_of, make_observer
from telemeter.tap.flags import Flags
from telemeter.tap.listen import endpoint_maker
from telemeter.web.site import Site

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


class Daemon(MultiService):
    """The service of a whole daemon.

    It logs as logfmt, and stops its children one after the other, the last one first: a listener is
    done with its requests before what answers them goes away.
    """

    def __init__(self, options: Flags) -> None:
        super().__init__()
        self.setName(options.program)
        self._options = options
        self._stream: TextIO | None = None
        self._is_alone = False  # in its process

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Join the application, and be its log observer unless the user chose another."""
        super().setServiceParent(parent)
        runner = getattr(self._options, "parent", None) or {}
        if isinstance(parent, Componentized) and not (runner.get("logger") or runner.get("syslog")):
            self._stream = _log_stream(runner)
            parent.setComponent(ILogObserver, make_observer(self._stream, log_level(self._options)))
        self._is_alone = isinstance(parent, Componentized)

    def startService(self) -> None:
        super().startService()
        if self._is_alone:
            settle_memory()

    def pass_on(self, line: str) -> None:
        """Write a line that another process of this daemon has logged, without its end."""
        if self._stream is None:
            log.emit(level_of(line), "{line}", line=line)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)
        for child in reversed(list(self)):
            try:
                await _deferred(child.stopService())
            except Exception:
                log.failure("a part of the daemon did not stop as it should")


def _deferred(result: Any) -> Deferred[Any]:
    if isinstance(result, Deferred):
        return result
    done: Deferred[Any] = Deferred()
    done.callback(result)
    return done


def log_level(options: Flags) -> str:
    """From which level on a daemon logs."""
    return "debug" if options["verbose"] else str(options["log-level"])


def _log_stream(runner: Any) -> Any:
    """Where twistd was told to log: a file, or standard error."""
    name = runner.get("logfile")
    if name and name != "-":
        return LogFile.fromFullPath(name)
    if not name and not runner.get("nodaemon", True):
        return LogFile.fromFullPath("twistd.log")
    return sys.stderr


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
        return f"--{self._flag} {self._address!r}: cannot listen there: {reason}"

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await _deferred(super().stopService())
        if self.port is not None:
            await _deferred(self.port.stopListening())


class Listener(Listening):
    """Serves a site at an address, and lets its requests finish when it stops."""

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
        self._reactor = reactor
        self._site = site

    async def _stop(self) -> None:
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
