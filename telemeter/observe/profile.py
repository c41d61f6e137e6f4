"""Looking into a running daemon: where its threads are, and where its time goes."""

from __future__ import annotations

import io
import sys
import threading
import traceback
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

#: The longest profile, in seconds.
MAX_SECONDS: Final = 60.0
_LINES = 60


class BusyError(Exception):
    """A profile is being taken already."""


def stacks() -> str:
    """Return where every thread is at this moment."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"thread {names.get(ident, ident)}\n")
        parts.extend(traceback.format_stack(frame))
        parts.append("\n")
    return "".join(parts)


class Profiler:
    """A profiler of the reactor's thread."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._busy = False

    async def profile(self, seconds: float) -> str:
        """Return the functions that the reactor's thread spends most time in.

        Args:
            seconds: for how long to look.

        Raises:
            BusyError: one look at a time.
        """
        if self._busy:
            raise BusyError
        # Here, because few starts of a daemon are followed by a profile.
        import cProfile
        import pstats

        self._busy = True
        profiler = cProfile.Profile()
        try:
            profiler.enable()
            await self._wait(min(seconds, MAX_SECONDS))
        finally:
            profiler.disable()
            self._busy = False
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(_LINES)
        return text.getvalue()

    def _wait(self, seconds: float) -> Deferred[None]:
        return deferLater(self._clock, seconds, lambda: None)
