"""The circuit breaker: nobody waits for an upstream that is down."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import (
    ConnectionLost,
    ConnectionRefusedError,  # noqa: A004
    DNSLookupError,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from telemeter.net.upstream import ForwardError, Sent
from telemeter.upstream.batch import BatchLimits
from telemeter.upstream.breaker import Breaker
from telemeter.upstream.forwarder import Forwarder
from tests.fakes import SILENCE, Growth, Log, Peer, Reply, has_fired, result_of, samples, start

URL = "http://upstream.test/"


@implementer(IAgent)
class Way:
    """The way to an upstream, which may be closed.

    Attributes:
        error: what becomes of requests; None: they arrive.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.error: Exception | None = None

    def request(self, *arguments: Any, **named: Any) -> Deferred[IResponse]:
        if self.error is not None:
            return fail(self.error)
        return self._peer.agent.request(*arguments, **named)


class World:
    """A forwarder, its upstream and the time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.peer = Peer()
        self.way = Way(self.peer)
        self.forwarder = Forwarder(self.way, self.clock, URL, "tenant", BatchLimits())

    def send(self) -> int:
        """Send a request, and return the status that its sender is told."""
        sending = start(self.forwarder.send("c", b"x"))
        if not has_fired(sending):
            self.clock.advance(5)
        try:
            sent: Sent = result_of(sending)
            return sent.status
        except ForwardError as error:
            return error.status


@pytest.fixture
def world() -> World:
    return World()


#: What is wrong with an upstream: an answer, or what happens on the way.
Fault = Reply | Exception


def bring(world: World, fault: Fault) -> None:
    if isinstance(fault, Exception):
        world.way.error = fault
    else:
        world.peer.reply, world.way.error = fault, None


DOWN: dict[str, tuple[Fault, int]] = {
    "502": (Reply(502), 502),
    "503": (Reply(503), 503),
    "504": (Reply(504), 504),
    "refused": (ConnectionRefusedError(), 502),
    "no such name": (DNSLookupError(), 502),
    "hangs": (SILENCE, 502),
}
UP: dict[str, tuple[Fault, int]] = {
    "200": (Reply(200), 200),
    "400": (Reply(400), 400),
    "413": (Reply(413), 413),
    "429": (Reply(429), 429),
    "500": (Reply(500), 500),
    "lost": ((ResponseNeverReceived([Failure(ConnectionLost())])), 502),
}


@pytest.mark.parametrize("fault", DOWN)
def test_after_five_failures_in_a_row_nobody_is_held(world: World, fault: str, log: Log) -> None:
    broken, status = DOWN[fault]
    bring(world, broken)
    growth = Growth()
    assert [world.send() for _ in range(5)] == [status] * 5
    asked = len(world.peer.received)
    with pytest.raises(ForwardError, match="the upstream is down at present") as caught:
        result_of(start(world.forwarder.send("c", b"x")))
    assert (caught.value.status, caught.value.retry_after) == (503, "10")
    assert len(world.peer.received) == asked
    assert world.forwarder.breaker.is_open
    assert samples()["telemeter_forward_breaker_open", frozenset()] == 1
    assert growth.of("telemeter_forward_breaker_opened_total") == 1
    assert growth.of("telemeter_forward_breaker_refused_total") == 1
    (event,) = log.of("the upstream counts as down")
    assert event["failures"] == 5


@pytest.mark.parametrize("fault", UP)
def test_no_sender_can_open_it_for_others(world: World, fault: str) -> None:
    answer, status = UP[fault]
    bring(world, answer)
    assert [world.send() for _ in range(20)] == [status] * 20
    assert not world.forwarder.breaker.is_open


@pytest.mark.parametrize("fault", ["200", "400", "429", "500"])
def test_failures_have_to_be_in_a_row(world: World, fault: str) -> None:
    for _ in range(5):
        for _ in range(4):
            world.peer.reply = Reply(503)
            world.send()
        bring(world, UP[fault][0])
        world.send()
    assert not world.forwarder.breaker.is_open


def test_it_is_tried_every_few_seconds_and_recovers_by_itself(world: World, log: Log) -> None:
    world.peer.reply = Reply(503)
    for _ in range(5):
        world.send()
    asked = len(world.peer.received)
    for _ in range(4):
        assert {world.send() for _ in range(9)} == {503}
        world.clock.advance(1.5)
    assert len(world.peer.received) == asked + 1
    world.peer.reply = Reply(200)
    world.clock.advance(1.5)
    assert [world.send() for _ in range(3)] == [200] * 3
    assert not world.forwarder.breaker.is_open
    assert samples()["telemeter_forward_breaker_open", frozenset()] == 0
    assert len(log.of("the upstream is back")) == 1


def test_those_who_wait_in_the_queue_are_told_as_well(world: World) -> None:
    """While five requests hang, one after the other, more senders come."""
    world.peer.reply = SILENCE
    waiting: list[Deferred[object]] = []
    while not world.forwarder.breaker.is_open:
        waiting.append(start(world.forwarder.send("c", b"x")))
        world.clock.advance(0.1)
    waiting.append(start(world.forwarder.send("c", b"x")))
    assert has_fired(waiting[-1])
    world.clock.advance(5)
    told = []
    for each in waiting:
        with pytest.raises(ForwardError) as caught:
            result_of(each)
        told.append(caught.value.status)
    assert set(told) == {502, 503}
    assert told[-1] == 503


def test_its_state_in_words(clock: Clock) -> None:
    breaker = Breaker(clock)
    assert breaker.describe() == "up"
    breaker.failed("x")
    assert breaker.describe() == "up, 1 failures in a row"
    for _ in range(4):
        breaker.failed("x")
    clock.advance(7)
    assert breaker.describe() == "down for 7 seconds; it is tried every 3 seconds"
