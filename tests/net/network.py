"""A network in memory: servers that can be connected to, and pipes that carry bytes.

Nothing moves by itself: `flow` carries bytes until there are none left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError  # noqa: A004
from twisted.internet.interfaces import (
    IProtocol,
    IReactorPluggableNameResolver,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.fakes import FakeTransport
from tests.names import Names


class End(Protocol):
    """What stands at an end of a pipe, and notes what comes.

    Attributes:
        received: all bytes so far.
        lost: why the connection ended; None: it is open.
    """

    def __init__(self) -> None:
        self.received = b""
        self.lost: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason.value

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def hang_up(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class Ends(Factory):
    """Makes ends.

    Attributes:
        made: all of them.
        on_data: is called with an end whenever it has received something.
    """

    noisy = False

    def __init__(self, on_data: Callable[[End], object] | None = None) -> None:
        self.made: list[End] = []
        self._on_data = on_data

    def buildProtocol(self, addr: object) -> End:
        end, on_data = End(), self._on_data
        if on_data is not None:

            def received(data: bytes) -> None:
                end.received += data
                on_data(end)

            end.dataReceived = received  # type: ignore[method-assign]
        self.made.append(end)
        return end


class _Transport(FakeTransport):
    """A transport as HTTP clients expect it."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is delayed here."""


class Pipe:
    """Two protocols that are connected."""

    def __init__(self, client: IProtocol, server: IProtocol) -> None:
        self._sides = [(client, _Transport()), (server, _Transport())]
        self._open = True
        for protocol, transport in reversed(self._sides):
            protocol.makeConnection(transport)

    def carry(self) -> bool:
        """Carry what was written, and tell both ends when one has closed; whether there was any."""
        moved = False
        if not self._open:
            return moved
        for (_, transport), (other, _) in (self._sides, self._sides[::-1]):
            if (data := transport.value()) and not transport.disconnected:
                transport.clear()
                other.dataReceived(data)
                moved = True
        if any(side.disconnecting or side.disconnected for _, side in self._sides):
            self._open = False
            aborted = any(side.disconnected for _, side in self._sides)
            reason = ConnectionLost() if aborted else ConnectionDone()
            for protocol, _ in self._sides:
                protocol.connectionLost(Failure(reason))
            moved = True
        return moved


@implementer(IReactorPluggableNameResolver)
class Network(MemoryReactorClock):
    """A reactor that connects to servers in memory.

    Attributes:
        servers: what listens, by name and port.
        silent: where connections are neither made nor refused.
        connected: where connections were made to, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[tuple[str, int], Factory] = {}
        self.silent: set[tuple[str, int]] = set()
        self.connected: list[tuple[str, int]] = []
        self._names: list[str] = []
        self._pipes: list[Pipe] = []
        self.nameResolver = Names(self._address_of)

    def installNameResolver(self, resolver: Any) -> Any:
        """Take another resolver; return the one that was there."""
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def _address_of(self, name: str) -> str:
        """Return an address of its own for each name, from 192.0.2.0/24."""
        if name not in self._names:
            self._names.append(name)
        return f"192.0.2.{self._names.index(name)}"

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        factory.doStart()
        name = self._names[int(host.rpartition(".")[2])]
        if (name, port) in self.silent:
            return connector
        if (name, port) not in self.servers:
            factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))
            return connector
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        self.join(protocol, name, port)
        return connector

    def join(self, client: IProtocol, name: str, port: int) -> None:
        """Connect a client to a server."""
        server = self.servers[name, port].buildProtocol(IPv4Address("TCP", name, port))
        assert server is not None
        self.connected.append((name, port))
        self._pipes.append(Pipe(client, server))

    def flow(self) -> None:
        """Let bytes flow until all is quiet."""
        moved = True
        while moved:
            self.advance(0)
            moved = sum(pipe.carry() for pipe in self._pipes) > 0
