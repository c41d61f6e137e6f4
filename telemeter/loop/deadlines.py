"""Deadlines of many things that all have the same time, for the price of one timer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

_Result = TypeVar("_Result")


class Deadlines:
    """The Deferreds that have to fire within a time, and are cancelled if they do not."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        """Make it.

        Args:
            clock: tells the time.
            seconds: for how long each is waited for.
        """
        self._clock = clock
        self.seconds = seconds
        self._due: OrderedDict[Deferred[Any], float] = OrderedDict()  # in the order of the times
        self._is_timed = False

    def watch(self, deferred: Deferred[_Result]) -> Deferred[_Result]:
        """Have a Deferred cancelled if it has not fired in time; return it."""
        if deferred.called:
            return deferred
        self._due[deferred] = self._clock.seconds() + self.seconds
        if not self._is_timed:
            self._is_timed = True
            self._clock.callLater(self.seconds, self._look)
        return deferred.addBoth(self._forget, deferred)

    def _forget(self, result: _Result, deferred: Deferred[_Result]) -> _Result:
        self._due.pop(deferred, None)
        return result

    def _look(self) -> None:
        """Cancel what is due, and look again when the next is."""
        self._is_timed = False
        while self._due:
            deferred, due = next(iter(self._due.items()))
            wait = due - self._clock.seconds()
            if wait > 0:
                self._is_timed = True
                self._clock.callLater(wait, self._look)
                return
            del self._due[deferred]
            deferred.cancel()
