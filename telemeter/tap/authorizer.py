"""telemeter-authorizer: from its flags to its service."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger

from telemeter import __version__
from telemeter.config.authorizer import Options
from telemeter.config.listen_address import plain_listener
from telemeter.devtools.authorizer import StubAuthorizer
from telemeter.loop.reactor import daemon_reactor
from telemeter.tap.daemon import Daemon
from telemeter.web.site.routing import make_site

__all__ = ["Options", "makeService"]

log = Logger()


def makeService(options: Options, reactor: Any = None) -> IService:
    """Return the service of the stub of the authorization server."""
    if reactor is None:
        reactor = daemon_reactor()
    config = options.config
    daemon = Daemon(options, reactor)
    site = make_site([StubAuthorizer(config.tokens).route()], reactor)
    plain_listener(reactor, site, config.listen, config.program).setServiceParent(daemon)
    log.info("starting telemeter-authorizer", version=__version__, tokens=len(config.tokens))
    return daemon
