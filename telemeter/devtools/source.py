"""Figures of this machine to federate from, where there is no Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IRequest

from telemeter.loop.clocks import WallClock, milliseconds
from telemeter.loop.threads import Runner
from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import NAME, parse_selector
from telemeter.store.federation import Federation, Text
from telemeter.store.store import Store
from telemeter.web.federate import TEXT_TYPE
from telemeter.web.site.routing import Route

#: As many series as a machine with very many processors and disks has.
_MOST_SERIES = 100_000
_JOB = "demo-source"
# There is always one, to show what becomes of alerts and of a label that is to be removed.
_ALERT = {"alertname": "AlwaysFiring", "alertstate": "firing", "severity": "info", "_elide": "yes"}

log = Logger()

#: Reads the figures of a machine: name, labels and value of each.
Figures: TypeAlias = Callable[[], Iterable[tuple[str, Mapping[str, str], float]]]


class MachineSource:
    """The latest figures of this machine, as series of a Prometheus that scrapes it."""

    def __init__(
        self,
        figures: Figures,
        instance: str,
        interval: float,
        clock: IReactorTime,
        wall: WallClock,
        run: Runner,
    ) -> None:
        """Make one.

        Args:
            figures: reads them, as (name, labels, value); blocks.
            instance: the label `instance` of every series.
            interval: seconds between two readings.
            clock: tells ages.
            wall: dates samples.
            run: runs `figures` in a thread.
        """
        self._figures = figures
        self._instance = instance
        self._wall = wall
        self._run = run
        self.store = Store(clock, 60 + 10 * interval, _MOST_SERIES)

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
