"""Services that start in the order in which they were added, and stop in the reverse of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

log = Logger()


class StartError(SystemExit, Exception):
    """The end of the program with one line, because it cannot start.

    It is an Exception for twistd, which reports no other to the process that waits for a daemon in
    the background: that process would wait without end.
    """


@runtime_checkable
class Finishing(Protocol):
    """A service that lets requests finish when it stops.

    Attributes:
        finished: how many requests it let finish.
    """

    finished: int


class OrderedServices(MultiService):
    """Services that stop one after the other, the last one first.

    `MultiService` alone stops them all at once. Here a service begins to stop when all that were
    started after it have stopped: a listener is done with its requests before the parts that answer
    them go away.
    """

    @property
    def finished(self) -> int:
        """Return how many requests were let finish since the services were told to stop."""
        return sum(child.finished for child in self if isinstance(child, Finishing))

    def stopService(self) -> Deferred[None]:
        """Stop the services in order; fires with None when all have stopped, whatever failed."""
        return Deferred.fromCoroutine(self._stop_in_order())

    async def _stop_in_order(self) -> None:
        Service.stopService(self)
        for child in reversed(list(self)):
            try:
                await maybeDeferred(child.stopService)
            except Exception:
                log.failure("a part of the daemon did not stop as it should")


def in_start_order(**services: IService | None) -> list[IService]:
    """Return services in the order in which they are given, without those that are None.

    Each gets its name here, so that tests and people can tell one from another.
    """
    present = []
    for name, service in services.items():
        if service is not None:
            service.setName(name)
            present.append(service)
    return present


class OnStop(Service):
    """A function that is called when the services stop."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def stopService(self) -> Any:
        """Call the function; returns what it returns, perhaps a Deferred."""
        super().stopService()
        return self._call()
