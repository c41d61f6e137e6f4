"""Listeners: addresses at which a daemon serves a site."""

from __future__ import annotations

from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,  # noqa: A004
    maybeDeferred,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from telemeter.loop.services import StartError
from telemeter.web.site.site import Site

#: How many connections are accepted in one turn of the event loop. Those that give way to others
#: are closed in the next turn: until then each has a descriptor that is counted nowhere.
_MOST_ACCEPTED: Final = 16

log = Logger()


class Listening(Service):
    """A listener that does nothing with those who connect.

    Attributes:
        flag: the flag that says where it listens.
        port: the port while it listens; None: it does not.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        *,
        flag: str,
        address: str,
        program: str,
    ) -> None:
        """Make a listener; it listens from `privilegedStartService` on.

        Args:
            endpoint: where to listen.
            factory: who takes the connections.
            flag: the flag that says where, for messages.
            address: the value of that flag.
            program: the name that messages begin with.
        """
        self._endpoint = endpoint
        self._factory = factory
        self.flag = flag
        self._address = address
        self._program = program
        self.port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen; while twistd still has the rights to open low ports."""
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._listening, failures.append)
        if failures:
            raise StartError(f"{self._program}: {self._cannot_listen(failures[0].value)}")
        super().privilegedStartService()

    def startService(self) -> None:
        super().startService()
        if self.port is None:  # twist, unlike twistd, calls nothing but this
            self.privilegedStartService()

    def _listening(self, port: IListeningPort) -> None:
        self.port = port
        _accept_few(port)
        host = port.getHost()
        where = str(host)
        if isinstance(host, IPv4Address | IPv6Address):
            where = f"{host.host}:{host.port}"
        log.info("listening", flag=f"--{self.flag}", address=where)

    def _cannot_listen(self, error: BaseException | None) -> str:
        reason = error.socketError if isinstance(error, CannotListenError) else error
        if reason is error and isinstance(error, OSError):
            reason = error.strerror  # without the path, which is bytes
        return f"--{self.flag} {self._address!r}: cannot listen there: {reason}"

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await maybeDeferred(super().stopService)
        if self.port is not None:
            await maybeDeferred(self.port.stopListening)


def _accept_few(port: Any) -> None:
    """Have a port accept few connections in a turn, if it is one that accepts several at all.

    Twisted's begins with a hundred, and sets after each turn how many the next may have.

    Args:
        port: what a listener got from its endpoint.
    """
    if not hasattr(port, "numberAccepts"):
        return
    accept = port.doRead

    def accept_few() -> None:
        port.numberAccepts = min(port.numberAccepts, _MOST_ACCEPTED)
        accept()

    port.doRead = accept_few


class Listener(Listening):
    """A listener that serves a site, and lets its requests finish when it stops.

    Attributes:
        site: the site.
        finished: how many it let finish.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        site: Site,
        *,
        flag: str,
        address: str,
        program: str,
        tls: IOpenSSLContextFactory | None = None,
    ) -> None:
        """Make a listener; it listens from `privilegedStartService` on.

        Args:
            reactor: what it runs on.
            endpoint: where to listen.
            site: what to serve there.
            flag: the flag that says where, for messages.
            address: the value of that flag.
            program: the name that messages begin with.
            tls: what to show over TLS; None: it speaks none.
        """
        factory: IProtocolFactory = site
        if tls is not None:
            factory = TLSMemoryBIOFactory(tls, False, site, reactor)
        super().__init__(endpoint, factory, flag=flag, address=address, program=program)
        self.finished = 0
        self._reactor = reactor
        self.site = site

    async def _stop(self) -> None:
        before = self.site.over
        await super()._stop()
        if self.port is None:
            return
        try:
            await self.site.drain().addTimeout(self.site.timeouts.stop, self._reactor)
        except (TimeoutError, CancelledError):
            log.warn(
                "requests were still under way when the time to stop was over",
                requests=len(self.site.active),
                seconds=self.site.timeouts.stop,
            )
        self.finished = self.site.over - before
        self.site.abort()
