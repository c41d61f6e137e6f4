"""The program that a parent starts for each worker: `python -m telemeter.server.workers N`."""

from __future__ import annotations

import signal
import sys

from telemeter.loop.signals import PARENTS


def main() -> None:
    """Be worker N."""
    # A terminal, for example, sends these to all its processes; the parent knows what to do.
    for number in PARENTS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS)
    worker = int(sys.argv[1])

    from prometheus_client import values

    # Before any metric is declared: the files are those of the worker's number, so that one that
    # takes the place of another goes on counting.
    values.ValueClass = values.MultiProcessValue(lambda: worker)

    from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, elapsed_reactor
    from telemeter.server.workers.process import Worker

    Worker(elapsed_reactor(), SYSTEM_WALL_CLOCK, worker).run()


main()
