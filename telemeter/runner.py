"""Work that would keep the reactor from its own for too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from twisted.internet.threads import deferToThreadPool

#: Calls a function with arguments where it does not keep the reactor from its work.
Runner: TypeAlias = Callable[..., Awaitable[Any]]


def thread_runner(reactor: Any) -> Runner:
    """What calls functions in the reactor's threads."""

    def run(function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)

    return run


async def run_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function at once: for tests, and where there is nothing to keep waiting."""
    return function(*arguments)
