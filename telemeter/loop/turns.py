"""Turns of the event loop, between the parts of long work and among many who want something."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

#: For how many seconds those who wait in `Turns` are given theirs before all others.
_TURN_SECONDS: Final = 0.005

log = Logger()


def turn(clock: IReactorTime) -> Deferred[None]:
    """Fire with None when everything else that is due has had its turn."""
    return deferLater(clock, 0, lambda: None)


async def in_turns(clock: IReactorTime, steps: Iterator[object]) -> None:
    """Do work step by step, with everything else that happens in between.

    Args:
        clock: calls later.
        steps: the work; each step should take a millisecond or so.
    """
    for _ in steps:
        await turn(clock)


class Turns:
    """A queue of calls that are made in turns of the event loop, some milliseconds at a time."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], object]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function when everything else that is due has had its turn."""
        if not self._waiting:
            self._clock.callLater(0, self._take)
        self._waiting.append(function)

    def _take(self) -> None:
        end = self._clock.seconds() + _TURN_SECONDS
        for _ in range(len(self._waiting)):  # who comes back has the next turn
            try:
                self._waiting[0]()
            except Exception:
                log.failure("a call in its turn failed")
            self._waiting.popleft()
            if self._clock.seconds() >= end:
                break
        if self._waiting:
            self._clock.callLater(0, self._take)
