"""telemeter-demo-source: from its flags to its service."""

from __future__ import annotations

from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.logger import Logger

from telemeter import __version__
from telemeter.config.demo_source import Options
from telemeter.config.listen_address import plain_listener
from telemeter.devtools.source import MachineSource
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock
from telemeter.loop.reactor import daemon_reactor
from telemeter.loop.threads import thread_runner
from telemeter.samples.errors import BadInputError
from telemeter.tap.daemon import Daemon
from telemeter.web.federate import federate_route
from telemeter.web.health import Health
from telemeter.web.site.routing import make_site

__all__ = ["Options", "makeService"]

log = Logger()


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """Return the service of the source."""
    if reactor is None:
        reactor = daemon_reactor()
    config = options.config
    daemon = Daemon(options, reactor)
    source = MachineSource(
        options.figures,
        config.instance,
        config.interval,
        reactor,
        wall,
        thread_runner(reactor, BadInputError),
    )
    timer = TimerService(config.interval, source.look)
    timer.clock = reactor
    timer.setServiceParent(daemon)
    site = make_site(
        [*Health().routes(), federate_route(source.store, reactor), source.metrics_route()], reactor
    )
    plain_listener(reactor, site, config.listen, config.program).setServiceParent(daemon)
    log.info("starting telemeter-demo-source", version=__version__)
    return daemon
