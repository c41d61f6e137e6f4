"""Work in threads."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from telemeter.loop.threads import Runner, one_at_a_time, run_here, thread_runner
from telemeter.samples.errors import BadInputError
from tests.fakes import has_fired, result_of, start, take_turns
from tests.reactor import in_reactor

reactor: Any = _reactor


class Body:
    """Something that can be watched."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=["threads", "here"])
def run(request: pytest.FixtureRequest) -> Runner:
    return run_here if request.param == "here" else thread_runner(reactor, BadInputError)


@in_reactor
async def test_what_a_function_returns(run: Runner) -> None:
    assert await run(divmod, 17, 5) == (3, 2)


@in_reactor
async def test_a_fault_of_ours_keeps_its_traceback(run: Runner) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        await run(divmod, 1, 0)
    assert len(caught.traceback) > 1


def refuse(body: Body) -> None:
    try:
        raise LookupError(body)
    except LookupError:
        raise BadInputError("cut off") from None


@in_reactor
async def test_what_was_refused_is_not_kept(no_collector: None) -> None:
    """Also before Python looks for circles, which may be many large bodies later."""
    run = thread_runner(reactor, BadInputError)

    async def convert() -> weakref.ref[Body]:
        body = Body()
        watched = weakref.ref(body)
        arguments: tuple[Any, ...] = (body,)
        del body
        try:
            await run(refuse, *arguments)
        except BadInputError as error:
            assert str(error) == "cut off"
        return watched

    watched = await convert()
    while watched() is not None:  # for a moment, the thread and the reactor are not done with it
        await deferLater(reactor, 0.001)


class Threads:
    """A runner whose functions are called when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Deferred[None]] = []

    async def __call__(self, function: Any, *arguments: Any, **named: Any) -> Any:
        self.begun.append(Deferred())
        await self.begun[-1]
        return function(*arguments, **named)


def test_threads_do_one_thing_after_the_other(clock: Clock) -> None:
    threads = Threads()
    run = one_at_a_time(threads, clock).thread
    results = [start(run(str, number)) for number in range(3)]
    for number in range(3):
        assert len(threads.begun) == number + 1
        assert not has_fired(results[number])
        threads.begun[number].callback(None)
        assert result_of(results[number]) == str(number)


def test_who_gives_up_waiting_is_not_served(clock: Clock) -> None:
    threads = Threads()
    run = one_at_a_time(threads, clock).thread
    first, gone, last = (start(run(str, number)) for number in range(3))
    gone.cancel()
    gone.addErrback(lambda _: None)
    threads.begun[0].callback(None)
    assert len(threads.begun) == 2
    threads.begun[1].callback(None)
    assert (result_of(first), result_of(last)) == ("0", "2")


def test_a_thread_goes_on_when_nobody_waits_for_it_and_the_next_waits(clock: Clock) -> None:
    threads = Threads()
    run = one_at_a_time(threads, clock).thread
    gone, last = (start(run(str, number)) for number in range(2))
    gone.cancel()
    gone.addErrback(lambda _: None)
    assert len(threads.begun) == 1
    threads.begun[0].callback(None)
    assert len(threads.begun) == 2
    threads.begun[1].callback(None)
    assert result_of(last) == "1"


def test_a_failure_makes_room_for_the_next(clock: Clock) -> None:
    run = one_at_a_time(run_here, clock)
    for each in (run.thread, run.turn):
        failing, good = start(each(int, "x")), start(each(int, "1"))
        take_turns(clock)
        with pytest.raises(ValueError, match="invalid literal"):
            result_of(failing)
        assert result_of(good) == 1


def test_one_thing_in_a_turn(clock: Clock) -> None:
    run = one_at_a_time(run_here, clock).turn
    done: list[object] = []
    for number in range(3):
        start(run(done.append, number))
    seen: list[int] = []

    def look() -> None:
        seen.append(len(done))
        if len(done) < 3:
            clock.callLater(0, look)

    look()
    take_turns(clock)
    assert seen == [0, 1, 2, 3]
    assert done == [0, 1, 2]
