"""Tests that run in the real reactor, as those of Twisted's own trial do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

reactor: Any = _reactor

_SECONDS: Final = 30.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_reactor(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, Deferred[None]]:
    """Have a test run until it is done, for half a minute at most; pytest-twisted waits for it."""

    @wraps(test)
    def run(*arguments: _P.args, **named: _P.kwargs) -> Deferred[None]:
        return Deferred.fromCoroutine(test(*arguments, **named)).addTimeout(_SECONDS, reactor)

    return run


_Fixture = Callable[_P, AsyncIterator[_T]]


def fixture_in_reactor(
    scope: Literal["function", "module"] = "function", params: Sequence[Any] | None = None
) -> Callable[[_Fixture[_P, _T]], _Fixture[_P, _T]]:
    """Make a fixture of a function that yields once, and may await before and after that."""
    made = pytest_twisted.async_yield_fixture(scope=scope, params=params)
    return cast("Callable[[_Fixture[_P, _T]], _Fixture[_P, _T]]", made)
