"""Waiting for a result that several want: each may stop waiting without harm to the others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_Result = TypeVar("_Result")


class Waiters(Generic[_Result]):
    """The Deferreds of those who wait for one result."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[_Result]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self) -> Deferred[_Result]:
        """Return what fires when `tell` is called; cancelling it concerns nobody else."""
        waiting: Deferred[_Result] = Deferred(self._forget)
        self._waiting.append(waiting)
        return waiting

    def tell(self, result: _Result | Failure) -> None:
        """Give the result, or the failure, to all who wait; who waits from now on waits anew."""
        told, self._waiting = self._waiting, []
        for waiting in told:
            if waiting.called:
                continue  # cancelled by what another of them did with the result
            if isinstance(result, Failure):
                waiting.errback(result)
            else:
                waiting.callback(result)

    def _forget(self, waiting: Deferred[_Result]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)


class Once(Generic[_Result]):
    """Results by key, each found once at a time, however many wait for it."""

    def __init__(self) -> None:
        self._under_way: dict[str, Waiters[_Result]] = {}

    def find(self, key: str, find: Callable[[], Coroutine[Any, Any, _Result]]) -> Deferred[_Result]:
        """Wait for the result of a key, and begin to find it unless that is under way.

        Args:
            key: what is wanted.
            find: finds it.

        Returns:
            What `find` does. Cancelling it leaves the result to the others who wait for it.
        """
        waiters = self._under_way.get(key)
        if waiters is not None:
            return waiters.wait()
        waiters = self._under_way[key] = Waiters()
        waiting = waiters.wait()
        Deferred.fromCoroutine(find()).addBoth(self._found, key)
        return waiting

    def _found(self, result: _Result | Failure, key: str) -> None:
        self._under_way.pop(key).tell(result)
