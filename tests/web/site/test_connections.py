"""How many connections there may be, and which gives way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.iweb import IRequest

from telemeter.web.site.connections import Connections
from telemeter.web.site.routing import Route, make_site
from tests.fakes import Growth, Log, Wire, request_of, value_of

MESSAGE = (
    "could not accept a connection without closing another: there are as many as there may be "
    "(of clients: --max-connections)"
)


class World:
    """A site with three places."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.slow: list[Deferred[bytes]] = []
        routes = [Route("/", lambda _: b"x"), Route("/slow", self._wait)]
        self.site = make_site(routes, clock, connections=3)
        self.open_before = value_of("telemeter_connections_open")
        self.wires: list[Wire] = []

    def _wait(self, request: IRequest) -> Deferred[bytes]:
        self.slow.append(Deferred())
        return self.slow[-1]

    def connect(self, sent: bytes = b"") -> Wire:
        wire = Wire(self.site)
        self.wires.append(wire)
        if sent:
            wire.send(sent)
        for each in self.wires:
            if each.is_aborted() and each in self.wires:
                self.wires.remove(each)
                each.vanish()
        return wire


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    world = World(clock)
    yield world
    for wire in world.wires:
        wire.vanish()
    assert value_of("telemeter_connections_open") == world.open_before
    assert not len(world.site.connections)


GET = request_of("GET", "/")


def test_as_many_as_there_may_be_do_no_harm(world: World, log: Log) -> None:
    wires = [world.connect() for _ in range(3)]
    assert not any(map(Wire.is_aborted, wires))
    assert value_of("telemeter_connections_open") == world.open_before + 3
    assert not log.of(MESSAGE)


def test_the_longest_silent_gives_way(world: World) -> None:
    first, second, third = (world.connect() for _ in range(3))
    first.send(b"G")
    assert not world.connect().is_aborted()
    assert [each.is_aborted() for each in (first, second, third)] == [False, True, False]


def test_who_has_completed_a_request_goes_last(world: World) -> None:
    used, first, second = world.connect(GET), world.connect(), world.connect()
    first.send(b"G")
    assert not world.connect().is_aborted()
    assert [each.is_aborted() for each in (used, first, second)] == [False, False, True]


def test_among_those_the_longest_silent_goes_first(world: World) -> None:
    first, second, third = (world.connect(GET) for _ in range(3))
    first.send(GET)
    assert not world.connect().is_aborted()
    assert [each.is_aborted() for each in (first, second, third)] == [False, True, False]


def test_who_is_being_answered_stays(world: World) -> None:
    busy = [world.connect(request_of("GET", "/slow")) for _ in range(3)]
    assert world.connect().is_aborted()
    assert not any(map(Wire.is_aborted, busy))
    for each in world.slow:
        each.callback(b"x")


def test_one_that_has_given_way_may_still_be_heard(clock: Clock) -> None:
    connections: Connections[Any] = Connections(clock, None)
    connections.heard(object())
    assert len(connections) == 0


def test_it_is_counted_and_logged_once_a_minute(world: World, log: Log, clock: Clock) -> None:
    growth = Growth()
    for _ in range(13):
        world.connect()
    clock.advance(59)
    world.connect()
    assert [event["closed"] for event in log.of(MESSAGE)] == [1]
    clock.advance(1)
    world.connect()
    assert [event["closed"] for event in log.of(MESSAGE)] == [1, 11]
    assert growth.of("telemeter_connections_gave_way_total") == 12
