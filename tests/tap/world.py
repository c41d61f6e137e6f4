"""A reactor that opens no sockets, and daemons that run on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test import iosim
from twisted.web.resource import Resource
from twisted.web.server import Site as WebSite
from zope.interface import implementer

from telemeter.web.site.site import Site
from tests.fakes import UPTIME
from tests.names import Names


class _Pool:
    """A thread pool without threads."""

    def callInThreadWithCallback(
        self, done: Callable[[bool, Any], None], function: Callable[..., Any], *arguments: Any
    ) -> None:
        try:
            result = function(*arguments)
        except Exception:
            done(False, Failure())
        else:
            done(True, result)


@implementer(IReactorPluggableNameResolver)
class FakeReactor(MemoryReactorClock):
    """Time stands still, and nothing leaves the process."""

    _pool: ClassVar = _Pool()

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Names(lambda name: "127.0.0.1")
        self.hasStopped = False  # of some versions it has, before it was started
        self.advance(UPTIME)

    def installNameResolver(self, resolver: Any) -> Any:
        """Take another resolver; return the one that was there."""
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def getThreadPool(self) -> _Pool:
        return self._pool

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def site(self, port: int) -> Site:
        """The site that listens at a port."""
        (site,) = (factory for at, factory, _, _ in self.tcpServers if at == port)
        assert isinstance(site, Site)
        return site

    def connect(self, resource: Resource) -> iosim.IOPump:
        """Let the oldest connection that waits reach a server.

        Returns:
            What carries the bytes: flush it when the server has something new to say.
        """
        host, port, factory, _, _ = self.tcpClients.pop(0)
        client = factory.buildProtocol(IPv4Address("TCP", host, port))
        server = WebSite(resource, reactor=self).buildProtocol(IPv4Address("TCP", host, 1))
        assert client is not None
        assert server is not None
        pump: iosim.IOPump = iosim.connect(
            server,
            iosim.FakeTransport(server, isServer=True),
            client,
            iosim.FakeTransport(client, isServer=False),
        )
        return pump


def started(service: IService) -> MultiService:
    """A service that was started, as twistd starts it."""
    assert isinstance(service, MultiService)
    service.privilegedStartService()
    service.startService()
    return service
