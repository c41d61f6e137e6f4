"""Deadlines of many things that all have the same time, for the price of one timer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime


class Deadlines:
    """The things that have to end within a time, and are cancelled if they do not.

    Attributes:
        seconds: how long each may take.
    """

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        """Make it.

        Args:
            clock: tells the time.
            seconds: how long each may take.
        """
        self._clock = clock
        self.seconds = seconds
        # In the order of the times.
        self._due: OrderedDict[object, tuple[float, Callable[[], object]]] = OrderedDict()
        self._is_timed = False

    def begin(self, key: object, cancel: Callable[[], object]) -> None:
        """Have something cancelled if it has not ended in time.

        Args:
            key: what tells it from others.
            cancel: cancels it.
        """
        self._due[key] = self._clock.seconds() + self.seconds, cancel
        if not self._is_timed:
            self._is_timed = True
            self._clock.callLater(self.seconds, self._look)

    def end(self, key: object) -> None:
        """Take note that something has ended, in time or not."""
        self._due.pop(key, None)

    def _look(self) -> None:
        """Cancel what is due, and look again when the next is."""
        self._is_timed = False
        while self._due:
            key, (due, cancel) = next(iter(self._due.items()))
            wait = due - self._clock.seconds()
            if wait > 0:
                self._is_timed = True
                self._clock.callLater(wait, self._look)
                return
            del self._due[key]
            cancel()
