"""Several wait for one result."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from telemeter.loop.waiters import Once, Waiters
from tests.fakes import has_fired, result_of


def test_all_are_told() -> None:
    waiters: Waiters[int] = Waiters()
    waiting = [waiters.wait() for _ in range(3)]
    assert len(waiters) == 3
    waiters.tell(5)
    assert [result_of(each) for each in waiting] == [5, 5, 5]
    assert len(waiters) == 0


def test_who_waits_later_waits_for_the_next_result() -> None:
    waiters: Waiters[int] = Waiters()
    later: list[Deferred[int]] = []
    waiters.wait().addCallback(lambda _: later.append(waiters.wait()))
    waiters.tell(1)
    assert not has_fired(later[0])
    waiters.tell(2)
    assert result_of(later[0]) == 2


def test_a_failure_is_for_all() -> None:
    waiters: Waiters[int] = Waiters()
    waiting = [waiters.wait() for _ in range(2)]
    waiters.tell(Failure(ZeroDivisionError()))
    for each in waiting:
        with pytest.raises(ZeroDivisionError):
            result_of(each)


def test_who_stops_waiting_is_forgotten() -> None:
    waiters: Waiters[int] = Waiters()
    first, second = waiters.wait(), waiters.wait()
    first.cancel()
    assert len(waiters) == 1
    with pytest.raises(CancelledError):
        result_of(first)
    waiters.tell(3)
    assert result_of(second) == 3


def test_who_is_cancelled_by_another_that_is_told() -> None:
    waiters: Waiters[int] = Waiters()
    first = waiters.wait()
    second = waiters.wait()
    first.addCallback(lambda _: second.cancel())
    waiters.tell(3)
    with pytest.raises(CancelledError):
        result_of(second)


def test_one_key_is_looked_for_once_at_a_time() -> None:
    once: Once[str] = Once()
    asked: list[Deferred[str]] = []

    async def find() -> str:
        answer: Deferred[str] = Deferred()
        asked.append(answer)
        return await answer

    first, second, other = once.find("a", find), once.find("a", find), once.find("b", find)
    assert len(asked) == 2
    first.cancel()
    with pytest.raises(CancelledError):
        result_of(first)
    asked[0].callback("found")
    assert result_of(second) == "found"
    assert not has_fired(other)
    third = once.find("a", find)
    assert len(asked) == 3
    asked[2].errback(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        result_of(third)
    asked[1].callback("")
    assert result_of(other) == ""
