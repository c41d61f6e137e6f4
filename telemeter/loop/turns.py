"""Giving the event loop a turn in the middle of long work that cannot go to a thread."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater


def turn(clock: IReactorTime) -> Deferred[None]:
    """Fire with None when everything else that is due has had its turn."""
    return deferLater(clock, 0, lambda: None)


async def in_turns(clock: IReactorTime, steps: Iterator[object]) -> None:
    """Do work step by step, with everything else that happens in between.

    Args:
        clock: calls later.
        steps: the work; each step should take a millisecond or so.
    """
    for _ in steps:
        await turn(clock)
