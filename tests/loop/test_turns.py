"""Work with turns of others in between."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.loop.turns import in_turns, turn
from tests.fakes import has_fired, result_of


def test_a_turn_is_over_when_others_had_theirs(clock: Clock) -> None:
    order: list[str] = []
    clock.callLater(0, order.append, "another")
    waiting = turn(clock).addCallback(lambda _: order.append("again"))
    assert not has_fired(waiting)
    clock.advance(0)
    assert order == ["another", "again"]


def test_one_step_a_turn(clock: Clock) -> None:
    done: list[object] = []

    def steps() -> Iterator[None]:
        for step in range(3):
            done.append(step)
            yield

    working = Deferred.fromCoroutine(in_turns(clock, steps()))
    assert (done, has_fired(working)) == ([0], False)
    clock.callLater(0, done.append, "another")
    clock.advance(0)
    assert done == [0, 1, "another", 2]
    assert result_of(working) is None


def test_work_that_is_given_up(clock: Clock) -> None:
    steps = iter(range(9))
    working = Deferred.fromCoroutine(in_turns(clock, steps))
    working.addErrback(lambda _: None)
    working.cancel()
    assert (next(steps), clock.getDelayedCalls()) == (1, [])
