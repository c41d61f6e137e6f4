"""The sharing of connections among workers that accept at one socket.

All of them wake up for a connection, and the first takes it. Left to themselves some would have
most of the connections, and those of remote write last for days. So each knows how many the others
have, and one with more than another gives way, for as long as the others get on with it. A worker
that lets connections wait is passed over until something happens to it.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from zope.interface import implementer

#: How often one that gives way looks whether connections still wait, in seconds, ...
_PAUSE: Final = 0.002
#: ... how often in a row it may find them waiting with nobody taking any, ...
_PATIENCE: Final = 50
#: ... and how many it takes then.
_AFTER_PATIENCE: Final = 8

_RECORD: Final = struct.Struct("=qq")
_AWAY: Final = 2**62


class Record(NamedTuple):
    """A worker as the others know it.

    Attributes:
        held: how many connections it has.
        changes: how many it has accepted and closed in all.
    """

    held: int
    changes: int


class Connections:
    """The record of each worker, in memory that they share."""

    def __init__(self, descriptor: int, workers: int) -> None:
        """Open it.

        Args:
            descriptor: of a file of any content; it stays the caller's.
            workers: how many there are.
        """
        os.ftruncate(descriptor, workers * _RECORD.size)
        self._memory = mmap.mmap(descriptor, workers * _RECORD.size)

    def set(self, worker: int, record: Record) -> None:
        """Note what is known of a worker."""
        _RECORD.pack_into(self._memory, worker * _RECORD.size, *record)

    def leave(self, worker: int) -> None:
        """Note that a worker takes none."""
        self.set(worker, Record(_AWAY, 0))

    def records(self) -> list[Record]:
        """Return what is known of each."""
        return [Record(*values) for values in _RECORD.iter_unpack(self._memory)]


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
    """A port's share of the connections, which counts them and has the port give way."""

    def __init__(
        self, reactor: IReactorTime, port: Any, connections: Connections, worker: int
    ) -> None:
        self._reactor = reactor
        self._port = port
        self._connections = connections
        self._worker = worker
        self._record = Record(0, 0)
        self._seen: list[Record] = []
        self._looks = 0
        self._passed_over: dict[int, Record] = {}
        self._accept = port.doRead
        port.doRead = self._may_accept
        port.transport = self._counted()
        connections.set(worker, self._record)

    def _counted(self) -> type[Server]:
        """Make the transport of a connection, and count it."""
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
        self._record = Record(self._record.held + by, self._record.changes + 1)
        self._connections.set(self._worker, self._record)

    def _others(self) -> list[Record]:
        records = self._connections.records()
        del records[self._worker]
        return records

    def _in_front(self, others: list[Record]) -> dict[int, Record]:
        """Return the workers that should take a connection before this one."""
        return {
            number: record
            for number, record in enumerate(others)
            if record.held < self._record.held and self._passed_over.get(number) != record
        }

    def _may_accept(self) -> None:
        """Take a connection that is waiting, or leave it to another worker."""
        others = self._others()
        if self._in_front(others):
            self._port.stopReading()
            self._seen, self._looks = others, 0
            self._reactor.callLater(_PAUSE, self._look)
        else:
            # Twisted takes all that are waiting otherwise.
            self._port.numberAccepts = 1
            self._accept()

    def _look(self) -> None:
        """See what has become of the connections that were left to others."""
        if not self._port.connected or self._port.disconnecting:
            return
        others = self._others()
        in_front = self._in_front(others)
        self._looks = self._looks + 1 if others == self._seen else 0
        self._seen = others
        if in_front and self._is_waiting():
            if self._looks < _PATIENCE:
                self._reactor.callLater(_PAUSE, self._look)
                return
            self._passed_over = in_front
            self._port.numberAccepts = _AFTER_PATIENCE
            self._accept()
        self._port.startReading()

    def _is_waiting(self) -> bool:
        """Return whether there is a connection to accept."""
        poll = select.poll()
        poll.register(self._port.fileno(), select.POLLIN)
        return bool(poll.poll(0))
