"""A connection, and what it asks its transport."""

from __future__ import annotations

from collections import Counter

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from telemeter.web.site.routing import Route, make_site
from tests.fakes import request_of

PEER = IPv4Address("TCP", "192.0.2.1", 1234)


class Transport(StringTransport):
    """Counts how often it is asked for addresses."""

    def __init__(self) -> None:
        super().__init__(peerAddress=PEER)
        self.asked: Counter[str] = Counter()

    def getPeer(self) -> IAddress:
        self.asked["peer"] += 1
        address: IAddress = super().getPeer()
        return address

    def getHost(self) -> IAddress:
        self.asked["host"] += 1
        address: IAddress = super().getHost()
        return address


def test_a_connection_asks_once_who_is_there(clock: Clock) -> None:
    seen: list[tuple[object, bool]] = []

    def answer(request: IRequest) -> bytes:
        seen.append((request.getClientAddress(), request.isSecure()))
        return b"x"

    channel = make_site([Route("/", answer)], clock).buildProtocol(PEER)
    transport = Transport()
    assert channel is not None
    channel.makeConnection(transport)
    assert not transport.asked  # a balancer may not have said it yet
    for _ in range(3):
        channel.dataReceived(request_of("GET", "/"))
    assert seen == [(PEER, False)] * 3
    assert transport.asked == {"peer": 1, "host": 1}
    channel.connectionLost(Failure(ConnectionDone()))
