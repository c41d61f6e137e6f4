"""telemeter-demo-source: its flags and its service."""

from __future__ import annotations

import socket
from typing import Any, ClassVar

from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python.usage import UsageError

from telemeter import __version__
from telemeter.config.flags import LOGGING, Flag, Flags, duration, text
from telemeter.config.listen import listen_address, plain_listener
from telemeter.devtools.source import MachineSource
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock, elapsed_reactor
from telemeter.loop.threads import thread_runner
from telemeter.samples.errors import BadInputError
from telemeter.tap.daemon import Daemon
from telemeter.web.federate import federate_route
from telemeter.web.health import Health
from telemeter.web.site.routing import make_site

log = Logger()


class Options(Flags):
    """The flags of telemeter-demo-source."""

    program = "telemeter-demo-source"
    synopsis = "[flags]"
    longdesc = (
        "Serves figures of this machine at /federate and /metrics, as a Prometheus that scrapes "
        "it would: for demos, where there is no Prometheus. Needs psutil (telemeter[demo])."
    )
    flags: ClassVar = (
        Flag("listen", listen_address, "localhost:9090", "HOST:PORT to listen on."),
        Flag(
            "instance",
            text,
            "",
            "The label instance of every series.",
            shown="the name of this machine",
        ),
        Flag(
            "interval", duration, 1.0, "How often the machine is asked for its figures.", shown="1s"
        ),
        *LOGGING,
    )

    def check(self) -> None:
        """See that there is something to ask the machine with."""
        self.require_listen("listen")
        if not self["interval"]:
            raise UsageError("--interval 0: expected a duration above 0, such as 1s")
        try:
            from telemeter.observe import machine
        except ImportError as error:
            raise UsageError(f"psutil is needed: pip install 'telemeter[demo]' ({error})") from None
        self.figures = machine.figures


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """Return the service of the source."""
    if reactor is None:
        reactor = elapsed_reactor()
    daemon = Daemon(options, reactor)
    source = MachineSource(
        options.figures,
        options["instance"] or socket.gethostname(),
        options["interval"],
        reactor,
        wall,
        thread_runner(reactor, BadInputError),
    )
    timer = TimerService(options["interval"], source.look)
    timer.clock = reactor
    timer.setServiceParent(daemon)
    site = make_site(
        [*Health().routes(), federate_route(source.store, reactor), source.metrics_route()], reactor
    )
    plain_listener(reactor, site, options["listen"], options.program).setServiceParent(daemon)
    log.info("starting telemeter-demo-source", version=__version__)
    return daemon
