"""The program that a parent starts for each of its workers: `python -m telemeter.tap.workers N`."""

from __future__ import annotations

import signal
import sys

from prometheus_client import values


def main() -> None:
    """Be worker N."""
    # These come from a terminal, for example, to all its processes; the parent knows what to do.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    worker = int(sys.argv[1])
    # Before any metric is declared: the files are those of the worker's number, so that one that
    # takes the place of another goes on counting.
    values.ValueClass = values.MultiProcessValue(lambda: worker)

    from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, elapsed_reactor
    from telemeter.tap.workers.process import Worker

    Worker(elapsed_reactor(), SYSTEM_WALL_CLOCK, worker).run()


main()
