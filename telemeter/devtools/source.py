"""telemeter-demo-source: something to federate from where there is no Prometheus."""

from __future__ import annotations

import socket
from typing import Any, ClassVar

from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.usage import UsageError
from twisted.web.iweb import IRequest

from telemeter import __version__
from telemeter.config.flags import LOGGING, Flag, Flags, duration, text
from telemeter.config.listen import listen_address
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock, elapsed_reactor, milliseconds
from telemeter.loop.threads import Runner, thread_runner
from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import NAME, parse_selector
from telemeter.store.federation import Federation, Text
from telemeter.store.store import Store
from telemeter.tap.daemon import Daemon, listener_of
from telemeter.web.federate import TEXT_TYPE, federate_route
from telemeter.web.health import Health
from telemeter.web.site.routing import Route, make_site

#: As many series as a machine with very many processors and disks has.
_MOST_SERIES = 100_000
_JOB = "demo-source"
# There is always one, to show what becomes of alerts and of a label that is to be removed.
_ALERT = {"alertname": "AlwaysFiring", "alertstate": "firing", "severity": "info", "_elide": "yes"}

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


class Source:
    """Asks the machine, and keeps what it said last."""

    def __init__(self, options: Options, clock: IReactorTime, wall: WallClock, run: Runner) -> None:
        self._figures = options.figures
        self._instance = options["instance"] or socket.gethostname()
        self._wall = wall
        self._run = run
        self.store = Store(clock, 60 + 10 * options["interval"], _MOST_SERIES)

    def look(self) -> Deferred[None]:
        """Ask now; what goes wrong is logged."""
        done = Deferred.fromCoroutine(self._look())
        done.addErrback(lambda failure: log.failure("the machine could not be asked", failure))
        return done

    async def _look(self) -> None:
        payload, series = await self._run(self._read, milliseconds(self._wall.now()))
        await self.store.forward(self._instance, payload, series)

    def _read(self, now_ms: int) -> tuple[bytes, int]:
        request = remote_pb2.WriteRequest()
        own = {"instance": self._instance, "job": _JOB}
        found = [("up", own, 1.0), ("ALERTS", {**own, **_ALERT}, 1.0)]
        found += [(name, {**own, **labels}, value) for name, labels, value in self._figures()]
        for name, labels, value in found:
            series = request.timeseries.add()
            for label, content in sorted({NAME: name, **labels}.items()):
                series.labels.add(name=label, value=content)
            series.samples.add(value=value, timestamp=now_ms)
        return request.SerializeToString(), len(found)

    def metrics_route(self) -> Route:
        """/metrics: everything, as text."""
        everything = parse_selector(f'{{{NAME}=~".+"}}')

        def metrics(request: IRequest) -> bytes:
            request.setHeader("Content-Type", TEXT_TYPE)
            return b"".join(Federation(self.store, [everything], Text()).pieces())

        return Route("/metrics", metrics)


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """The service of the source."""
    if reactor is None:
        reactor = elapsed_reactor()
    daemon = Daemon(options, reactor)
    source = Source(options, reactor, wall, thread_runner(reactor))
    timer = TimerService(options["interval"], source.look)
    timer.clock = reactor
    timer.setServiceParent(daemon)
    site = make_site(
        [*Health().routes(), federate_route(source.store, reactor), source.metrics_route()], reactor
    )
    listener_of(options, reactor, site).setServiceParent(daemon)
    log.info("starting telemeter-demo-source", version=__version__)
    return daemon
