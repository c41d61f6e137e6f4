"""Work that would keep the reactor from its own for too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from twisted.internet.threads import deferToThreadPool

from telemeter.samples.errors import BadInputError

#: Calls a function with arguments where it does not keep the reactor from its work.
Runner: TypeAlias = Callable[..., Awaitable[Any]]


def thread_runner(reactor: Any) -> Runner:
    """What calls functions in the reactor's threads."""

    async def run(function: Callable[..., Any], *arguments: Any) -> Any:
        pool = reactor.getThreadPool()
        result = await deferToThreadPool(reactor, pool, _call, function, arguments)
        if isinstance(result, BadInputError):
            try:
                raise result
            finally:
                del result  # it holds this frame from now on
        return result

    return run


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function in a thread; what is wrong with the input is returned, without a traceback.

    Twisted's threads hold what was raised in a frame that this holds in turn. So it would stay
    until Python looks for such circles, and with it what its frames hold: the sender's large body.
    Nobody needs to know from where in our code a sender's fault was raised.
    """
    try:
        return function(*arguments)
    except BadInputError as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error


async def run_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function at once: for tests, and where there is nothing to keep waiting."""
    return function(*arguments)
