"""Signals: what they do to a daemon, from before its slow imports until it has ended.

This module is imported before everything else of a daemon, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

#: What tells a daemon something, and must not end it.
_TELLING: Final = (signal.SIGHUP, signal.SIGUSR1)
#: What a parent does something about, and its workers do nothing.
PARENTS: Final = (*_TELLING, signal.SIGINT)

_early: set[int] = set()


def hold_signals() -> None:
    """Keep SIGHUP and SIGUSR1 for `Signals`, and have SIGINT end the program without a traceback.

    By default the former end a program.
    """
    for number in _TELLING:
        signal.signal(number, _remember)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _remember(number: int, frame: Any) -> None:
    _early.add(number)


def _forget(number: int, frame: Any) -> None:
    """Do nothing."""


@contextmanager
def held_back() -> Iterator[None]:
    """Have `PARENTS` wait in a process that is started while this lasts, until it unblocks them.

    Otherwise they would end it before it can say that it ignores them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Signals:
    """The actions of a daemon's process on signals.

    SIGHUP and SIGUSR1 call functions, those that came before the start included. The first SIGTERM
    or SIGINT stops the reactor; the second of a kind ends the process at once, as if by the first.

    Attributes:
        at_once: called before the process ends at once.
    """

    def __init__(self, reactor: Any) -> None:
        self.at_once: list[Callable[[], object]] = []
        self._reactor = reactor
        self._calls: dict[int, list[Callable[[], object]]] = {each: [] for each in _TELLING}
        self._waiting: set[int] = set()
        self._is_over = False
        self._stops: list[int] = []

    @property
    def stopped_by(self) -> str:
        """The name of the signal that stopped the reactor; empty: none did."""
        return signal.Signals(self._stops[0]).name if self._stops else ""

    def call(self, number: int, function: Callable[[], object]) -> None:
        """Have SIGHUP or SIGUSR1 call a function in the reactor's thread; nothing is passed."""
        self._calls[number].append(function)

    def start(self) -> None:
        """Take the signals, and those that were kept."""
        for number in _TELLING:
            signal.signal(number, self._told)
        while _early:
            self._told(_early.pop(), None)
        self._take_stops(signal.SIG_DFL)
        # The reactor sets handlers of its own when it begins to run.
        self._reactor.callWhenRunning(self._take_over)

    def _take_over(self) -> None:
        """Take over from the reactor, which has just set up its own handling of signals."""
        self._take_stops(self._reactor.sigInt)
        # Each signal writes a byte that wakes the reactor. When a burst has filled the buffer, it
        # will wake up anyway; Python would print that each further byte is lost.
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor != -1:
            signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)

    def stop(self) -> None:
        """Call nothing any more, and leave SIGHUP and SIGUSR1 without effect until the end.

        They are not ignored by the system: of one that has come and is not handled yet, Python
        would print that it has lost it.
        """
        self._is_over = True
        for number in _TELLING:
            signal.signal(number, _forget)

    def _told(self, number: int, frame: Any) -> None:
        if number not in self._waiting:  # a burst is told once
            self._waiting.add(number)
            self._reactor.callFromThread(self._tell, number)

    def _tell(self, number: int) -> None:
        self._waiting.discard(number)
        if self._is_over:
            return
        for function in self._calls[number]:
            function()

    def _take_stops(self, usual: Any) -> None:
        """Take SIGTERM, and SIGINT from its usual handler.

        Another handler ignores it, as for a shell's background job, or is somebody's debugger.
        """
        signal.signal(signal.SIGTERM, self._told_to_stop)
        if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, usual):
            signal.signal(signal.SIGINT, self._told_to_stop)

    def _told_to_stop(self, number: int, frame: Any) -> None:
        if number in self._stops:
            self._end_at_once()
        self._stops.append(number)
        if len(self._stops) == 1:
            # Not from here: what the reactor logs might break into a line that is being written.
            self._reactor.callFromThread(self._stop_reactor, number)

    def _stop_reactor(self, number: int) -> None:
        """Have the reactor stop, and twistd end the process by the same signal."""
        stop = self._reactor.sigTerm if number == signal.SIGTERM else self._reactor.sigInt
        stop(number, None)

    def _end_at_once(self) -> None:
        for function in self.at_once:
            with suppress(Exception):
                function()
        number = self._stops[0]
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # the first process of a container is not ended by that signal
