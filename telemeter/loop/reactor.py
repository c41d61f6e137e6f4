"""The reactor of a daemon, set up before anything runs on it."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)

from telemeter.loop.clocks import elapsed_reactor
from telemeter.loop.resolver import look_up_apart
from telemeter.loop.timeouts import TIMEOUTS


class IDaemonReactor(
    IReactorCore, IReactorTime, IReactorTCP, IReactorThreads, IReactorPluggableNameResolver
):
    """The parts of a reactor that the daemons use: its end, timers, connections, threads, names.

    Workers and their parent use more: child processes, and sockets that are handed over.
    """


def daemon_reactor() -> IDaemonReactor:
    """Return this process's reactor: its timers run on elapsed time, and names are looked up apart.

    See `telemeter.loop.clocks.run_on_elapsed_time` and `telemeter.loop.resolver`.
    """
    reactor = elapsed_reactor()
    look_up_apart(reactor, TIMEOUTS.lookup)
    return cast("IDaemonReactor", reactor)
