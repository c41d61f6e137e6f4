"""Look-ups of host names: apart from all other work, bounded in number and time.

Twisted looks names up in the threads that all work shares. So a name server that does not answer
would stop conversions, and the end of the process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.logger import Logger
from zope.interface import implementer

from telemeter.loop.address import host_of
from telemeter.loop.threads import in_daemon_thread
from telemeter.loop.waiters import Once

#: How many names are looked up at a time; a look-up that hangs keeps its thread.
_MOST_THREADS: Final = 4
#: For how many seconds addresses are used again. The system's own cache, if there is one, knows
#: better how long they hold.
_KEPT_SECONDS: Final = 5.0
#: How many names have their addresses kept.
_MOST_KEPT: Final = 1000

#: A family of addresses and an address, as `socket.getaddrinfo` finds them.
Found: TypeAlias = tuple[int, str]

log = Logger()


class UnknownNameError(Exception):
    """A name could not be looked up; the text says why."""


def _look_up(host: str) -> list[Found]:
    """Ask the system for all addresses of a name; may take as long as a name server likes."""
    entries = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return [
        (family, host_of(address))
        for family, _, _, _, address in entries
        if family in (socket.AF_INET, socket.AF_INET6)
    ]


class Names:
    """The addresses of names."""

    def __init__(
        self,
        reactor: Any,
        seconds: float,
        look_up: Callable[[str], list[Found]] = _look_up,
    ) -> None:
        """Make it.

        Args:
            reactor: tells the time.
            seconds: how long a look-up may take, with its wait for a thread.
            look_up: looks a name up; raises OSError.
        """
        self._reactor = reactor
        self._seconds = seconds
        self._look_up = look_up
        self._threads = DeferredSemaphore(_MOST_THREADS)
        self._once: Once[list[Found]] = Once()
        self._kept: dict[str, tuple[float, list[Found]]] = {}

    async def addresses(self, host: str) -> list[Found]:
        """Return all addresses of a name.

        Raises:
            UnknownNameError: there are none, or not in time.
        """
        kept = self._kept.get(host)
        if kept is not None and self._reactor.seconds() < kept[0]:
            return kept[1]
        finding = self._once.find(host, lambda: self._find(host))
        try:
            return await finding.addTimeout(self._seconds, self._reactor)
        except (DeferredTimeoutError, CancelledError):
            raise UnknownNameError(f"no answer within {self._seconds:g} seconds") from None

    async def _find(self, host: str) -> list[Found]:
        await self._threads.acquire()
        try:
            # A thread cannot be stopped: until its end, it counts.
            found = await in_daemon_thread(self._reactor, lambda: self._look_up(host))
        except (OSError, UnicodeError) as error:
            raise UnknownNameError(getattr(error, "strerror", None) or str(error)) from None
        finally:
            self._threads.release()
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[host] = (self._reactor.seconds() + _KEPT_SECONDS, found)
        return found


@implementer(IHostResolution)
class _Resolution:
    """A look-up for Twisted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.finding: Deferred[None] | None = None

    def cancel(self) -> None:
        if self.finding is not None:
            self.finding.cancel()


@implementer(IHostnameResolver)
class Resolver:
    """A resolver of names for all connections of a reactor."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: Any = "TCP",
    ) -> IHostResolution:
        """Look a name up; see `twisted.internet.interfaces.IHostnameResolver`."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        wanted: Sequence[type[IAddress]] = addressTypes or (IPv4Address, IPv6Address)

        async def find() -> None:
            try:
                for family, host in await self._names.addresses(hostName):
                    kind = IPv6Address if family == socket.AF_INET6 else IPv4Address
                    if kind in wanted:
                        address = kind(transportSemantics, host, portNumber)
                        resolutionReceiver.addressResolved(address)
            except UnknownNameError as error:
                log.warn("a name could not be looked up", name=hostName, reason=str(error))
            resolutionReceiver.resolutionComplete()

        resolution.finding = Deferred.fromCoroutine(find())
        resolution.finding.addErrback(
            lambda failure: failure.trap(CancelledError) and None
        ).addErrback(lambda failure: log.failure("a look-up broke off", failure))
        return resolution


def look_up_apart(reactor: Any, seconds: float) -> None:
    """Have the names of all connections of a reactor looked up apart from other work.

    Args:
        reactor: whose.
        seconds: how long a look-up may take.
    """
    reactor.installNameResolver(Resolver(Names(reactor, seconds)))
