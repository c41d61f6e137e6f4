"""telemeter-client: from its flags to its service."""

from __future__ import annotations

import signal
import sys
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import Logger, globalLogBeginner

from telemeter import __version__
from telemeter.agent.app import build, dry_run, spool_status
from telemeter.config.agent import AgentConfig
from telemeter.config.agent_options import Options
from telemeter.config.groups import log_level, warn_of_empty, warn_of_tracing
from telemeter.convert.engine import KIND, SWITCH
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock
from telemeter.loop.reactor import daemon_reactor
from telemeter.net.url import shown
from telemeter.observe.build import tell_build
from telemeter.observe.compiled import warn_of_python
from telemeter.observe.log import make_observer
from telemeter.tap.daemon import Daemon

__all__ = ["Options", "makeService"]

log = Logger()


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """Return the service of an agent; a dry run, or a look at the spool, ends the program here."""
    if reactor is None:
        reactor = daemon_reactor()
    if options["spool-status"]:
        sys.stdout.write(spool_status(options.program, options["spool-dir"], wall))
        raise SystemExit(0)
    if options.config.sending is None:
        globalLogBeginner.beginLoggingTo(
            [make_observer(sys.stderr, log_level(options))], redirectStandardIO=False
        )
        warn_of_empty(options)
        react(lambda reactor: Deferred.fromCoroutine(dry_run(options.config, reactor, wall)))
    daemon = Daemon(options, reactor)
    app = build(options.config, reactor, wall, reader=options)
    for service in app.services:
        service.setServiceParent(daemon)
    daemon.signals.call(signal.SIGHUP, app.reloader.reload_quietly)
    _announce(options.config)
    warn_of_empty(options)
    warn_of_tracing(options)
    return daemon


def _announce(config: AgentConfig) -> None:
    """Log what is started, and what is missing for production."""
    assert config.sending is not None
    target = {"upload": shown(config.sending.upload_url)}
    if config.spool is not None:
        target = {"receive": shown(config.spool.receive_url), "spool": config.spool.folder}
    tell_build(__version__, KIND)
    log.info(
        "starting telemeter-client",
        version=__version__,
        **{"from": shown(config.collecting.given_url)},
        authorize=shown(config.sending.authorize_url),
        **target,
        transformer=KIND,
        selectors=config.collecting.selectors,
    )
    warn_of_python(KIND, "a cycle takes 12 to 15 times the processor time", SWITCH)
    if not config.transforms.anonymized:
        log.warn("no --anonymize-labels: label values are sent as they are")
    if not config.knows_id:
        log.warn("no --id: a telemeter-server refuses to authorize without one")
