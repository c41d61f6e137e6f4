"""A request, and what every answer has."""

from __future__ import annotations

import re

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString

from telemeter.web.site import request as module
from telemeter.web.site.routing import Route, make_site
from tests.fakes import FakeWall, request_of


def test_each_answer_has_the_date_of_its_second(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = FakeWall(clock)
    monkeypatch.setattr(module, "SYSTEM_WALL_CLOCK", wall)
    site = make_site([Route("/", lambda _: b"x")], clock)
    channel = site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1234))
    transport = StringTransport()
    assert channel is not None
    channel.makeConnection(transport)
    expected = []
    for _ in range(4):
        channel.dataReceived(request_of("GET", "/"))
        expected.append(datetimeToString(wall.now()))
        clock.advance(0.5)
    assert re.findall(rb"\r\nDate: (.+)\r\n", transport.value()) == expected
    assert len(set(expected)) > 1
    channel.connectionLost(Failure(ConnectionDone()))
