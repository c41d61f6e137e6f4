"""Work in threads."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from telemeter.loop.threads import Runner, run_here, thread_runner
from telemeter.samples.errors import BadInputError
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
