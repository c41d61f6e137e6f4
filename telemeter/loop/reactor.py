"""The reactor of a daemon, set up before anything runs on it."""

from __future__ import annotations

from typing import Any

from telemeter.loop.clocks import elapsed_reactor
from telemeter.loop.resolver import look_up_apart
from telemeter.loop.timeouts import TIMEOUTS


def daemon_reactor() -> Any:
    """Return this process's reactor: its timers run on elapsed time, and names are looked up apart.

    See `telemeter.loop.clocks.run_on_elapsed_time` and `telemeter.loop.resolver`.
    """
    reactor = elapsed_reactor()
    look_up_apart(reactor, TIMEOUTS.lookup)
    return reactor
