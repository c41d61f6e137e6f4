"""The service of a daemon under twistd and twist: its log, its signals, its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from twisted.application.service import IServiceCollection
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized

from telemeter.config.flag_parser import Flags
from telemeter.config.groups import log_level
from telemeter.loop.memory import settle_memory
from telemeter.loop.services import OrderedServices, StartError
from telemeter.loop.signals import Signals
from telemeter.loop.twisted_private import say_in_words_why_nothing_started
from telemeter.observe.log import LEVELS, level_of, make_observer
from telemeter.observe.logfile import LogFile, open_anew

log = Logger()


class Daemon(OrderedServices):
    """The service of a whole daemon.

    It logs as logfmt, and takes the signals of its process.

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

    async def _stop_in_order(self) -> None:
        began = self._reactor.seconds()
        if self._is_alone:
            log.info("stopping", signal=self.signals.stopped_by or "none")
            self.signals.stop()
        await super()._stop_in_order()
        if self._is_alone:
            seconds = f"{self._reactor.seconds() - began:.1f}"
            log.info("stopped", requests=self.finished, seconds=seconds)
