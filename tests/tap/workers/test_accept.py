"""How workers share the connections that come in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure

from telemeter.tap.workers.accept import Connections, InheritedEndpoint
from telemeter.web.ratelimit import shared_memory
from tests.fakes import result_of


@pytest.fixture
def descriptor() -> Iterator[int]:
    """Memory that workers share."""
    descriptor = shared_memory("test")
    yield descriptor
    os.close(descriptor)


def test_everybody_sees_who_has_how_many(descriptor: int) -> None:
    one, other = Connections(descriptor, 3), Connections(descriptor, 3)
    one.set(0, 5)
    other.set(1, 3)
    other.set(2, 4)
    assert (one.fewest(), other.fewest()) == (3, 3)
    one.leave(1)
    assert other.fewest() == 4
    one.leave(2)
    assert other.fewest() == 5


class Port:
    """A port that says how many connections it is told to accept."""

    def __init__(self) -> None:
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
        self.port = Port()
        self.connections = Connections(descriptor, 2)
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        inherited = os.dup(self.listening.fileno())
        endpoint = InheritedEndpoint(self, inherited, self.connections, 0)
        port: Any = result_of(endpoint.listen(Factory()))
        assert port is self.port
        self.callLater = self.clock.callLater

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


def test_with_more_it_gives_way_for_a_moment(sharing: Sharing) -> None:
    sharing.connections.set(1, -1)
    sharing.port.doRead()
    assert (sharing.port.accepted, sharing.port.reading) == ([], False)
    sharing.clock.advance(0.0021)
    assert (sharing.port.accepted, sharing.port.reading) == ([8], True)


def test_a_dead_worker_counts_for_nothing(sharing: Sharing) -> None:
    sharing.connections.set(1, -1)
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
            counts.append(sharing.connections.fewest())
        for transport in transports:
            transport.connectionLost(Failure(ConnectionDone()))
            counts.append(sharing.connections.fewest())
    assert counts == [1, 2, 3, 2, 1, 0]


def test_a_port_that_is_closed_meanwhile_accepts_nobody(sharing: Sharing) -> None:
    sharing.connections.set(1, -1)
    sharing.port.doRead()
    sharing.port.disconnecting = True
    sharing.clock.advance(1)
    assert (sharing.port.accepted, sharing.port.reading) == ([], False)
