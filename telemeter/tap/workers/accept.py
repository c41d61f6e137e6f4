"""How workers share the connections that come in at their common socket.

All of them wake up for a connection, and the first takes it. Left to themselves some would have
most of the connections, and those of remote write last for days. So each knows how many the others
have, and one with more than another gives way for a moment.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from zope.interface import implementer

#: How long it gives way, in seconds, ...
_PAUSE: Final = 0.002
#: ... and how many connections it takes when nobody else did.
_AFTER_PAUSE: Final = 8

_COUNT: Final = struct.Struct("=q")
_AWAY: Final = 2**62


class Connections:
    """How many connections each worker has, in memory that they share."""

    def __init__(self, descriptor: int, workers: int) -> None:
        """Open it.

        Args:
            descriptor: of a file of any content; it stays the caller's.
            workers: how many there are.
        """
        os.ftruncate(descriptor, workers * _COUNT.size)
        self._memory = mmap.mmap(descriptor, workers * _COUNT.size)

    def set(self, worker: int, count: int) -> None:
        """Note how many a worker has."""
        _COUNT.pack_into(self._memory, worker * _COUNT.size, count)

    def leave(self, worker: int) -> None:
        """Note that a worker takes none."""
        self.set(worker, _AWAY)

    def fewest(self) -> int:
        """How many the worker with the fewest has."""
        counts: list[tuple[int]] = list(_COUNT.iter_unpack(self._memory))
        return min(counts)[0]


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """The listening socket that all workers have."""

    def __init__(
        self, reactor: Any, descriptor: int, connections: Connections, worker: int
    ) -> None:
        """Make it.

        Args:
            reactor: what to listen with.
            descriptor: of the socket; it is closed when the port is.
            connections: how many each worker has.
            worker: which of them this is.
        """
        self._reactor = reactor
        self._descriptor = descriptor
        self._connections = connections
        self._worker = worker

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        with socket.socket(fileno=os.dup(self._descriptor)) as inherited:
            family = inherited.family
        endpoint = AdoptedStreamServerEndpoint(self._reactor, self._descriptor, family)
        listening: Deferred[IListeningPort] = endpoint.listen(protocolFactory)
        return listening.addCallback(self._share)

    def _share(self, port: Any) -> IListeningPort:
        _Share(self._reactor, port, self._connections, self._worker)
        return port  # type: ignore[no-any-return]


class _Share:
    """Counts the connections of a port, and has it give way."""

    def __init__(self, reactor: Any, port: Any, connections: Connections, worker: int) -> None:
        self._reactor = reactor
        self._port = port
        self._connections = connections
        self._worker = worker
        self._count = 0
        self._accept = port.doRead
        port.doRead = self._may_accept
        port.transport = self._counted()
        self._changed(0)

    def _counted(self) -> type[Server]:
        """What the port makes of a connection."""
        changed = self._changed

        class Counted(Server):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                changed(1)

            def connectionLost(self, reason: Failure) -> None:
                changed(-1)
                super().connectionLost(reason)

        return Counted

    def _changed(self, by: int) -> None:
        self._count += by
        self._connections.set(self._worker, self._count)

    def _may_accept(self) -> None:
        """A connection is waiting."""
        if self._count > self._connections.fewest():
            self._port.stopReading()
            self._reactor.callLater(_PAUSE, self._accept_after_pause)
        else:
            # Twisted takes all that are waiting otherwise.
            self._port.numberAccepts = 1
            self._accept()

    def _accept_after_pause(self) -> None:
        if self._port.connected and not self._port.disconnecting:
            self._port.numberAccepts = _AFTER_PAUSE
            self._accept()
            self._port.startReading()
