"""The program that a parent starts for each worker: `python -m telemeter.server.workers N`."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from telemeter.loop.signals import PARENTS


def main() -> None:
    """Be worker N."""
    # A terminal, for example, sends these to all its processes; the parent knows what to do.
    for number in PARENTS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS)
    worker = int(sys.argv[1])

    count_in_shared_memory()

    from telemeter.loop.clocks import SYSTEM_WALL_CLOCK
    from telemeter.loop.reactor import daemon_reactor
    from telemeter.server.workers.process import Worker

    Worker(daemon_reactor(), SYSTEM_WALL_CLOCK, worker).run()


def count_in_shared_memory() -> None:
    """Have metrics be where the parent sees them; before any is declared.

    The memory is that of the worker's number, so that one that takes the place of another goes on
    counting.
    """
    from prometheus_client import values

    from telemeter.observe.shared import Memory, value_class
    from telemeter.server.workers.control import METRICS_FD

    # Without, the parent has logged why; this process counts for nobody then.
    with suppress(OSError):
        values.ValueClass = value_class(Memory(METRICS_FD))


main()
