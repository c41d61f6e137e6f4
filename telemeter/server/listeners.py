"""The server's listeners, with and without TLS."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory

from telemeter.config.server import ServerConfig
from telemeter.net.reloadable import ReloadableServerContext
from telemeter.web.settings import ListenerSettings
from telemeter.web.site.listener import Listener
from telemeter.web.site.site import Site


def listener(
    config: ServerConfig,
    settings: ListenerSettings,
    reactor: Any,
    endpoint: IStreamServerEndpoint,
    site: Site,
    tls: ReloadableServerContext,
) -> Listener:
    """Return the service that serves a site.

    Args:
        config: the configuration.
        settings: of this listener; whether it speaks TLS at all is settled at the start.
        reactor: what it runs on.
        endpoint: where to listen.
        site: what to serve there.
        tls: what to show, if it speaks TLS.
    """
    factory = TLSMemoryBIOFactory(tls, False, site, reactor) if settings.tls else site
    return Listener(
        reactor,
        endpoint,
        site,
        factory,
        flag=settings.flag,
        address=settings.address,
        program=config.program,
    )
