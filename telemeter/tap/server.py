"""telemeter-server: from its flags to its service."""

from __future__ import annotations

import signal
from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger

from telemeter import __version__
from telemeter.config.groups import warn_of_empty, warn_of_tracing
from telemeter.config.server import ServerConfig
from telemeter.config.server_options import Options
from telemeter.convert.engine import KIND, SWITCH
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock
from telemeter.loop.reactor import daemon_reactor
from telemeter.net.url import shown
from telemeter.observe.build import tell_build
from telemeter.observe.compiled import warn_of_python
from telemeter.server.app import build
from telemeter.tap.daemon import Daemon

__all__ = ["Options", "makeService"]

log = Logger()


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """Return the service of a server: one process, or the parent of several."""
    if reactor is None:
        reactor = daemon_reactor()
    daemon = Daemon(options, reactor)
    app = build(options.config, reactor, wall, reader=options, pass_on=daemon.pass_on)
    for service in app.services:
        service.setServiceParent(daemon)
    daemon.signals.call(signal.SIGHUP, app.reloader.reload_quietly)
    if app.at_once is not None:
        daemon.signals.at_once.append(app.at_once)
    _announce(options.config)
    warn_of_tracing(options)
    warn_of_empty(options)
    return daemon


def _announce(config: ServerConfig) -> None:
    """Log what is started, and what is missing for production."""
    tell_build(__version__, KIND)
    log.info(
        "starting telemeter-server",
        version=__version__,
        forward_url=shown(config.forward.url),
        authorize=shown(config.authorization.url),
        workers=config.workers,
        transcoder=KIND,
        whitelist_rules=len(config.samples.whitelist.selectors),
    )
    warn_of_python(KIND, "uploads and remote write take 12 to 43 times the processor time", SWITCH)
    if not config.tokens.keys:
        log.warn(
            "no --shared-key: using a fresh one, so agents must authorize again after a restart, "
            "and no other server accepts their tokens"
        )
    if config.oidc.issuer.startswith("http://"):
        log.warn("--oidc-issuer is not https: the client secret travels in the clear")
    if not config.authorization.url:
        log.warn("no --authorize: every token is accepted")
    if not config.samples.whitelist:
        log.warn("no --whitelist or --whitelist-file: every series is forwarded")
    if not config.forward.url:
        log.info(
            "no --forward-url: the latest samples are kept in memory, at /federate of "
            "--listen-internal",
            retention=config.store.retention,
            max_series=config.store.max_series,
        )
