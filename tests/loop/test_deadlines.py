"""Deadlines of many."""

from __future__ import annotations

import gc
import weakref

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from telemeter.loop.deadlines import Deadlines
from tests.fakes import has_fired, result_of


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(clock, 10)


def test_what_is_late_is_cancelled(deadlines: Deadlines, clock: Clock) -> None:
    late: list[Deferred[None]] = []
    for _ in range(3):
        late.append(deadlines.watch(Deferred()))
        clock.advance(1)
    for number, each in enumerate(late):
        clock.advance(6.9 if number == 0 else 0.9)
        assert not has_fired(each)
        clock.advance(0.1)
        with pytest.raises(CancelledError):
            result_of(each)
    assert clock.getDelayedCalls() == []


def test_what_is_in_time_is_not(deadlines: Deadlines, clock: Clock) -> None:
    waiting: Deferred[int] = Deferred()
    watched = deadlines.watch(waiting)
    clock.advance(9)
    waiting.callback(1)
    clock.advance(9)
    assert result_of(watched) == 1


def test_there_is_one_timer(deadlines: Deadlines, clock: Clock) -> None:
    for _ in range(100):
        clock.advance(0.01)
        deadlines.watch(Deferred()).addErrback(lambda _: None)
    assert len(clock.getDelayedCalls()) == 1


def test_what_is_done_is_not_held(deadlines: Deadlines) -> None:
    waiting: Deferred[object] = Deferred()
    deadlines.watch(waiting)
    gone = weakref.ref(waiting)
    waiting.callback(None)
    del waiting
    gc.collect()
    assert gone() is None
