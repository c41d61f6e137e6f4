"""A telemeter-server, put together of its parts: one process, or the parent of workers.

`build` makes a `ServerApp` of a configuration. One process answers clients by itself
(`SingleProcess`); with several workers it is their parent (`ParentOfWorkers`). What runs, and in
which order it starts and stops, is listed in `start_order`; which paths there are, in `endpoints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector
from twisted.application.service import IService
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from telemeter.auth.keys import generate_key
from telemeter.config.disk import Disk
from telemeter.config.files import reading_from
from telemeter.config.listen_address import endpoint_maker
from telemeter.config.reload import Reloader, Told
from telemeter.config.server import Certificates, ConfigReader, ServerConfig
from telemeter.limits.ratelimit import Table, shared_memory
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock
from telemeter.loop.reactor import IDaemonReactor
from telemeter.loop.threads import thread_runner
from telemeter.net.reloadable import ReloadableServerContext
from telemeter.observe.registry import WithWorkers
from telemeter.samples.errors import BadInputError
from telemeter.server import start_order
from telemeter.server.clients import Clients
from telemeter.server.endpoints import Endpoints, Seams, Shared, operator_routes
from telemeter.server.fleet import ATTEMPTS, Fleet
from telemeter.server.token_check import answers_for_workers
from telemeter.server.workers.control import Setup
from telemeter.server.workers.supervisor import Workers
from telemeter.store.cluster_series import StoreSeries
from telemeter.store.store import Store
from telemeter.upstream.breaker import OPEN_NAME
from telemeter.web.health import Health
from telemeter.web.site.guard import Guard
from telemeter.web.site.listener import Listener, Listening
from telemeter.web.site.routing import make_site

#: How many connections of operators there may be; clients leave room for them.
_OPERATORS: Final = 64

log = Logger()


def build(
    config: ServerConfig,
    reactor: IDaemonReactor,
    wall: WallClock = SYSTEM_WALL_CLOCK,
    *,
    reader: ConfigReader,
    pass_on: Callable[[str], None] = print,
    seams: Seams | None = None,
) -> ServerApp:
    """Put a server together; nothing is started yet.

    Args:
        config: the configuration.
        reactor: what it runs on; its clock shows elapsed time.
        wall: tells the time of day.
        reader: reads the configuration again for a reload.
        pass_on: writes a line of a worker's log.
        seams: what tests put in.
    """
    if config.workers == 1:
        return SingleProcess(config, reactor, wall, reader, seams)
    return ParentOfWorkers(config, reactor, wall, reader, pass_on)


class ServerApp(ABC):
    """A server: what it consists of, and how it takes up another configuration.

    Attributes:
        services: what runs, in start order; see `telemeter.server.start_order`.
        health: whether it wants requests.
        reloader: reloads on request, and when certificates change.
        at_once: called when the process is told for the second time to end.
    """

    def __init__(
        self, config: ServerConfig, reactor: IDaemonReactor, wall: WallClock, reader: ConfigReader
    ) -> None:
        self.config = config
        self.services: Sequence[IService] = ()
        self.health: Health
        self.at_once: Callable[[], None] | None = None
        self.fleet = Fleet(config, reactor, wall)
        self._reactor = reactor
        self._reader = reader
        self._guard = Guard(config.operators)
        self._internal_tls = ReloadableServerContext(config.listen_internal.tls)
        self._disk = Disk(reactor, config.timeouts.files)
        self.reloader = Reloader(
            reactor,
            wall,
            self._disk,
            self._reload,
            reader.certificate_paths,
            self._reload_certificates,
            reader.certificates_seen,
        )

    async def reload(self, config: ServerConfig) -> None:
        """Take up another configuration, as far as it comes from files: all of it or nothing.

        Raises:
            UsageError: something could not be used, and the old configuration stays.
        """
        self.fleet.reload(config.samples.whitelist)
        self._internal_tls.reload(config.listen_internal.tls)
        self._guard.settings = config.operators
        self.config = config

    async def _reload(self) -> Told:
        # The files are those of the start: which flags there are does not change.
        readings = await self._disk.read(self.config.contents, "the reload of all files")
        with reading_from(readings):
            config = self._reader.read_config()
        await self.reload(config)
        return {"whitelist_rules": len(config.samples.whitelist.selectors)}

    async def _read_certificates(self) -> Certificates:
        """Read the certificates of the listeners again; raises `UsageError`."""
        paths = self._reader.certificate_paths
        with reading_from(await self._disk.read(paths, "the reload of certificates")):
            return self._reader.read_certificates()

    @abstractmethod
    async def _reload_certificates(self) -> None:
        """Read the certificates of the listeners again, and show them; raises `UsageError`."""

    def _operator_listener(self, metrics: Collector, store: Store | None = None) -> Listener:
        """Return the service that answers operators."""
        config, settings = self.config, self.config.listen_internal
        routes = operator_routes(
            self._reactor,
            self.health,
            metrics,
            self.reloader.reload,
            store,
            self.fleet,
            config.timeouts.reader,
        )
        return Listener(
            self._reactor,
            endpoint_maker(settings.address)(self._reactor, config.timeouts),
            make_site(
                routes,
                self._reactor,
                timeouts=config.timeouts,
                guard=self._guard,
                connections=_OPERATORS,
            ),
            flag=settings.flag,
            address=settings.address,
            program=config.program,
            tls=self._internal_tls if settings.tls else None,
        )


class SingleProcess(ServerApp):
    """A server in one process."""

    def __init__(
        self,
        config: ServerConfig,
        reactor: IDaemonReactor,
        wall: WallClock,
        reader: ConfigReader,
        seams: Seams | None,
    ) -> None:
        super().__init__(config, reactor, wall, reader)
        shared = Shared(generate_key(), observer=self.fleet.observer)
        self.endpoints = Endpoints(config, reactor, wall, shared, seams)
        self.health = self.endpoints.health
        store = self.endpoints.store
        if store is not None:
            self.fleet.show(StoreSeries(store))
        endpoint = endpoint_maker(config.listen.address)(reactor, config.timeouts)
        self.services = start_order.of_single_process(
            self.endpoints,
            self.fleet,
            reloader=self.reloader,
            operator_listener=self._operator_listener(REGISTRY, store),
            client_listener=self.endpoints.client_listener(endpoint),
        )

    async def reload(self, config: ServerConfig) -> None:
        """Take up another configuration; nothing here can fail."""
        self.endpoints.reload(config)
        await super().reload(config)

    async def _reload_certificates(self) -> None:
        certificates = await self._read_certificates()
        self.endpoints.tls.reload(certificates.tls)
        self._internal_tls.reload(certificates.internal_tls)


class ParentOfWorkers(ServerApp):
    """A server whose workers answer clients; this process answers operators."""

    def __init__(
        self,
        config: ServerConfig,
        reactor: IDaemonReactor,
        wall: WallClock,
        reader: ConfigReader,
        pass_on: Callable[[str], None],
    ) -> None:
        super().__init__(config, reactor, wall, reader)
        self._clients = Clients(config, reactor, thread_runner(reactor, BadInputError))
        table = shared_memory("telemeter-ratelimit") if config.ratelimit.seconds > 0 else None
        self._workers = workers = Workers(
            reactor,
            Listening(
                endpoint_maker(config.listen.address)(reactor, config.timeouts),
                Factory(),
                flag=config.listen.flag,
                address=config.listen.address,
                program=config.program,
            ),
            Setup(
                config.workers,
                list(config.arguments),
                config.contents,
                generate_key().encode(),
                b"" if table is None else Table(descriptor=table).key,
            ),
            table,
            answers_for_workers(config.authorization, reactor, self._clients.authorizer),
            pass_on,
            config.timeouts,
        )
        workers.reports[ATTEMPTS] = self.fleet.take
        self.at_once = workers.end_at_once
        self.health = Health(lambda: workers.ready)
        self.health.shared |= self._clients.states()
        metrics = WithWorkers(lambda: workers.metrics, workers.pids)
        self.health.shared["upstream"] = lambda: _upstream_by(metrics)
        self.services = start_order.of_parent(
            self._clients,
            self.health,
            self.fleet,
            reloader=self.reloader,
            operator_listener=self._operator_listener(metrics),
            workers=workers,
        )

    async def reload(self, config: ServerConfig) -> None:
        """Take up another configuration, if all workers can."""
        await self._workers.reload(config.contents)
        self._clients.reload(config)
        await super().reload(config)

    async def _reload_certificates(self) -> None:
        certificates = await self._read_certificates()
        await self._workers.reload(certificates.contents, only_certificates=True)
        self._internal_tls.reload(certificates.internal_tls)


def _upstream_by(metrics: Collector) -> str:
    """Return in words how the upstream is, by the metrics of those who ask it."""
    found = [metric for metric in metrics.collect() if metric.name == OPEN_NAME]
    is_down = any(sample.value for metric in found for sample in metric.samples)
    return "down for at least one worker; it is tried every few seconds" if is_down else "up"
