"""The two clocks, told apart by type.

Elapsed time only goes on, whatever an administrator or NTP does to the wall clock: intervals,
timeouts, delays, ages and the rate limit are reckoned by it. On Linux it is CLOCK_MONOTONIC, which
stands still while the machine sleeps, as the timeouts of epoll do: what was due in a minute when
the lid was closed is due in a minute when it is opened again. It is the same for all processes of a
machine, and means nothing on another one.

The wall clock can be set. It is for what leaves this machine or came from outside: timestamps of
samples, times in tokens and certificates, dates that people see.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, NewType, Protocol

from twisted.internet.interfaces import IReactorTime

#: A reading of the clock of elapsed time, in seconds; only differences mean something.
Elapsed = NewType("Elapsed", float)
#: A reading of the wall clock, in seconds since the epoch.
Wall = NewType("Wall", float)

#: 1970: stands for a time that is not known.
NO_DATE: Final = Wall(0.0)
#: Earlier than any other reading.
LONG_AGO: Final = Elapsed(float("-inf"))


class WallClock(Protocol):
    """A clock that shows the time of day."""

    def now(self) -> Wall:
        """Return the time, in seconds since the epoch."""
        ...


class _SystemWallClock:
    """The wall clock of this machine."""

    def now(self) -> Wall:
        """Return the time, in seconds since the epoch."""
        return Wall(time.time())


SYSTEM_WALL_CLOCK: Final[WallClock] = _SystemWallClock()


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks."""

    elapsed: Elapsed
    wall: Wall

    def date(self, elapsed: float) -> Wall:
        """Return the time of day of another moment, as the wall clock goes at this one.

        Args:
            elapsed: that moment, on the clock of elapsed time.
        """
        return Wall(self.wall - self.elapsed + elapsed)


def elapsed(clock: IReactorTime) -> Elapsed:
    """Return what a reactor's clock shows; see `elapsed_reactor`."""
    return Elapsed(clock.seconds())


def moment(clock: IReactorTime, wall: WallClock) -> Moment:
    """Return this moment, on both clocks."""
    return Moment(elapsed(clock), wall.now())


def milliseconds(wall: Wall) -> int:
    """Return whole milliseconds since the epoch, as samples have them."""
    return int(wall * 1000)


def elapsed_reactor() -> Any:
    """Return this process's reactor, whose timers run on elapsed time from now on."""
    from twisted.internet import reactor

    run_on_elapsed_time(reactor)
    return reactor


def run_on_elapsed_time(reactor: Any) -> None:
    """Have all timers of a reactor run on elapsed time.

    A reactor of Twisted reads the wall clock, and all its timers read the reactor's `seconds`, of
    which this makes one of its own. Everything that is timed goes through that: `callLater`, and so
    `LoopingCall`, `TimerService`, `addTimeout`, the timeouts of connections and of HTTP.

    Raises:
        RuntimeError: something is scheduled already, by the wall clock.
    """
    if reactor.seconds is time.monotonic:
        return
    scheduled = reactor.getDelayedCalls()
    if scheduled:
        raise RuntimeError(f"the reactor has timers already, by the wall clock: {scheduled}")
    reactor.seconds = time.monotonic
