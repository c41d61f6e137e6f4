"""What `twistd` and `twist` list: the daemons."""

from __future__ import annotations

import signal
from typing import Any

from twisted.application.service import ServiceMaker


class DaemonMaker(ServiceMaker):
    """A program that signals do not end while it is imported."""

    @property
    def options(self) -> Any:
        """The class of its flags. Nobody asks for it but to run the program."""
        # Even the first import of `telemeter` takes long enough for a signal to come.
        numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            from telemeter.loop.signals import hold_signals

            hold_signals()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        from telemeter.loop.memory import search_less

        search_less()
        return super().options


server = DaemonMaker(
    "Telemeter server",
    "telemeter.tap.server",
    "Takes metrics pushed by agents and Prometheus servers, and forwards what is allowed.",
    "telemeter-server",
)
client = DaemonMaker(
    "Telemeter agent",
    "telemeter.tap.client",
    "Collects metrics from a Prometheus server and pushes them to a telemeter-server.",
    "telemeter-client",
)
authorizer = DaemonMaker(
    "Telemeter stub authorization server",
    "telemeter.tap.authorizer",
    "Says yes to the tokens in a file: for development, demos and tests.",
    "telemeter-authorizer",
)
demo_source = DaemonMaker(
    "Telemeter demo source",
    "telemeter.tap.demo_source",
    "Serves figures of this machine as a Prometheus would: for demos.",
    "telemeter-demo-source",
)
