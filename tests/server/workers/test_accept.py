"""How workers share the connections that come in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure

from telemeter.limits.ratelimit import shared_memory
from telemeter.server.workers.accept import Connections, InheritedEndpoint, Record
from tests.fakes import result_of


@pytest.fixture
def descriptor() -> Iterator[int]:
    """Memory that workers share."""
    descriptor = shared_memory("test")
    yield descriptor
    os.close(descriptor)


def test_everybody_sees_who_has_how_many(descriptor: int) -> None:
    one, other = Connections(descriptor, 2), Connections(descriptor, 2)
    one.set(0, Record(held=5, changes=7))
    other.set(1, Record(held=3, changes=3))
    assert one.records() == other.records() == [Record(5, 7), Record(3, 3)]


class Port:
    """A port that says how many connections it is told to accept."""

    def __init__(self, listening: socket.socket) -> None:
        self.fileno = listening.fileno
        self.accepted: list[int] = []
        self.numberAccepts = 100
        self.connected = True
        self.disconnecting = False
        self.reading = True
        self.transport: Any = None

    def doRead(self) -> None:
        self.accepted.append(self.numberAccepts)

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class Sharing:
    """Worker 0 of two, with a port."""

    def __init__(self, descriptor: int) -> None:
        self.clock = Clock()
        self.connections = Connections(descriptor, 2)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = Port(self.listening)
        inherited = os.dup(self.listening.fileno())
        endpoint = InheritedEndpoint(self, inherited, self.connections, 0)
        port: Any = result_of(endpoint.listen(Factory()))
        assert port is self.port
        self.callLater = self.clock.callLater

    def others(self, count: int, changes: int) -> None:
        """The other worker has so many connections."""
        self.connections.set(1, Record(count, changes))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A client that nobody accepts."""
        with socket.create_connection(self.listening.getsockname()):
            yield

    def look(self, times: int = 1) -> None:
        """Let it see what has become of what it left to others."""
        self.clock.pump([0.0021] * times)

    def adoptStreamPort(self, descriptor: int, family: int, factory: Factory) -> Port:
        assert family == socket.AF_INET
        return self.port


@pytest.fixture
def sharing(descriptor: int) -> Iterator[Sharing]:
    sharing = Sharing(descriptor)
    yield sharing
    sharing.listening.close()


def test_with_as_many_as_the_others_it_takes_one_at_a_time(sharing: Sharing) -> None:
    for _ in range(2):
        sharing.port.doRead()
        sharing.port.numberAccepts = 21  # as Twisted does when all that it wanted were there
    assert sharing.port.accepted == [1, 1]


def test_with_more_it_gives_way_while_the_other_gets_on(sharing: Sharing) -> None:
    sharing.others(-100, 0)
    sharing.port.doRead()
    assert (sharing.port.accepted, sharing.port.reading) == ([], False)
    with sharing.waiting():
        for taken in range(99):
            sharing.look(10)
            sharing.others(taken - 100, taken)
            assert (sharing.port.accepted, sharing.port.reading) == ([], False)
        sharing.others(0, 100)
        sharing.look()
    assert (sharing.port.accepted, sharing.port.reading) == ([], True)
    sharing.port.doRead()
    assert sharing.port.accepted == [1]


def test_it_listens_again_when_nobody_waits(sharing: Sharing) -> None:
    sharing.others(-1, 0)
    for _ in range(3):
        sharing.port.doRead()
        assert not sharing.port.reading
        sharing.look()
        assert sharing.port.reading
    assert sharing.port.accepted == []
    assert not sharing.clock.getDelayedCalls()


def test_a_worker_that_does_nothing_is_passed_over(sharing: Sharing) -> None:
    sharing.others(-2, 5)
    sharing.port.doRead()
    with sharing.waiting():
        sharing.look(49)
        assert (sharing.port.accepted, sharing.port.reading) == ([], False)
        sharing.look()
    assert (sharing.port.accepted, sharing.port.reading) == ([8], True)
    # And costs nobody time again, ...
    sharing.port.doRead()
    assert sharing.port.accepted == [8, 1]
    # ... until something has happened to it.
    sharing.others(-2, 7)
    sharing.port.doRead()
    assert (sharing.port.accepted, sharing.port.reading) == ([8, 1], False)


def test_a_dead_worker_counts_for_nothing(sharing: Sharing) -> None:
    sharing.others(-1, 0)
    sharing.connections.leave(1)
    sharing.port.doRead()
    assert sharing.port.accepted == [1]


def test_connections_are_counted(sharing: Sharing) -> None:
    sharing.connections.leave(1)
    reactor = MemoryReactor()
    counts = []
    with ExitStack() as open_sockets:
        transports = []
        for _ in range(3):
            ours, _ = map(open_sockets.enter_context, socket.socketpair())
            transports.append(
                sharing.port.transport(ours, Protocol(), ("127.0.0.1", 1), None, 0, reactor)
            )
            counts.append(sharing.connections.records()[0])
        for transport in transports:
            transport.connectionLost(Failure(ConnectionDone()))
            counts.append(sharing.connections.records()[0])
    assert counts == [(1, 1), (2, 2), (3, 3), (2, 4), (1, 5), (0, 6)]


def test_a_port_that_is_closed_meanwhile_accepts_nobody(sharing: Sharing) -> None:
    sharing.others(-1, 0)
    sharing.port.doRead()
    sharing.port.disconnecting = True
    sharing.clock.advance(1)
    assert (sharing.port.accepted, sharing.port.reading) == ([], False)
