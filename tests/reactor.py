"""Tests that run in the real reactor, as those of Twisted's own trial do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec

from twisted.internet import reactor
from twisted.internet.defer import Deferred

_SECONDS: Final = 30.0

_P = ParamSpec("_P")


def in_reactor(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, Deferred[None]]:
    """Have a test run until it is done, for half a minute at most; pytest-twisted waits for it."""

    @wraps(test)
    def run(*arguments: _P.args, **named: _P.kwargs) -> Deferred[None]:
        return Deferred.fromCoroutine(test(*arguments, **named)).addTimeout(_SECONDS, reactor)

    return run
