"""Reading the files that flags name again while the daemon runs.

Some file systems, those over a network above all, can hold whoever reads for ever. So that is done
by threads that nobody waits for longer than agreed, not even the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.python.usage import UsageError

from telemeter.config.files import Readings, Signature, from_disk, signature
from telemeter.loop.threads import in_daemon_thread

_Result = TypeVar("_Result")

#: How many threads may hang; then nothing is read until one has ended.
_MOST_THREADS: Final = 10


class Disk:
    """The files on disk, for a daemon that runs."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        """Make it.

        Args:
            reactor: what the daemon runs on.
            seconds: how long to wait for all files of a reload.
        """
        self._reactor = reactor
        self._seconds = seconds
        self._threads = 0
        self._hung_at = ""

    async def read(self, paths: Iterable[str], purpose: str) -> Readings:
        """Read files, for `reading_from`.

        Args:
            paths: the files.
            purpose: what they are read for, for messages.

        Raises:
            UsageError: it takes too long.
        """
        return dict(await self._of_each(paths, _reading, purpose))

    async def signature(self, paths: Iterable[str], purpose: str) -> Signature:
        """Return the state of some files as `files.signature` does; raises `UsageError`."""
        found = await self._of_each(paths, lambda path: signature([path]), purpose)
        return tuple(state for states in found for state in states)

    async def _of_each(
        self, paths: Iterable[str], function: Callable[[str], _Result], purpose: str
    ) -> list[_Result]:
        """Call a function for each path, in a thread."""
        paths = list(paths)
        if not paths:
            return []
        if self._threads >= _MOST_THREADS:
            raise UsageError(
                f"{purpose}: {self._threads} attempts to read files have not ended, the last one "
                f"with {self._hung_at!r}"
            )
        reached = paths[0]

        def call_all() -> list[_Result]:
            nonlocal reached
            results = []
            for reached in paths:
                results.append(function(reached))
            return results

        self._threads += 1
        done = in_daemon_thread(self._reactor, call_all).addBoth(self._ended)
        # A thread cannot be cancelled, and is counted until it has ended.
        waiting: Deferred[list[_Result]] = Deferred()
        done.chainDeferred(waiting)
        try:
            return await waiting.addTimeout(self._seconds, self._reactor)
        except DeferredTimeoutError:
            self._hung_at = reached
            raise UsageError(
                f"{purpose}: {reached!r} could not be read within {self._seconds:g} seconds"
            ) from None

    def _ended(self, result: Any) -> Any:
        self._threads -= 1
        return result


def _reading(path: str) -> tuple[str, bytes | OSError | ValueError]:
    """Return a path and what is there, or why that cannot be read."""
    try:
        return path, from_disk(path)
    except (OSError, ValueError) as error:
        return path, error
