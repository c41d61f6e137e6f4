"""Deadlines of many."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.loop.deadlines import Deadlines


class World:
    """Things with ten seconds each.

    Attributes:
        cancelled: those that took longer.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.deadlines = Deadlines(clock, 10)
        self.cancelled: list[str] = []

    def begin(self, name: str) -> None:
        self.deadlines.begin(name, lambda: self.cancelled.append(name))


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock)


def test_what_is_late_is_cancelled(world: World) -> None:
    for name in "abc":
        world.begin(name)
        world.clock.advance(1)
    for number, done in ((6.9, []), (0.1, ["a"]), (0.9, ["a"]), (0.1, ["a", "b"]), (1, [*"abc"])):
        world.clock.advance(number)
        assert world.cancelled == done
    assert world.clock.getDelayedCalls() == []


def test_what_is_in_time_is_not(world: World) -> None:
    world.begin("a")
    world.begin("b")
    world.clock.advance(9)
    world.deadlines.end("a")
    world.clock.advance(9)
    assert world.cancelled == ["b"]


def test_what_ends_twice_has_ended(world: World) -> None:
    world.begin("a")
    world.deadlines.end("a")
    world.deadlines.end("a")
    world.clock.advance(20)
    assert world.cancelled == []


def test_there_is_one_timer_and_nothing_is_kept(world: World) -> None:
    for number in range(100):
        world.clock.advance(0.01)
        world.begin(str(number))
    assert len(world.clock.getDelayedCalls()) == 1
    for number in range(100):
        world.deadlines.end(str(number))
    assert not world.deadlines._due
    world.clock.advance(20)
    assert world.clock.getDelayedCalls() == []
