"""The HTTP site: decides on a request's headers before its body is held.

Twisted reads a request's body whole before a resource sees the request. Here a route may have a
gate (`telemeter.web.site.admission`), which is asked as soon as the headers are there. It admits
the request, and then takes the body piece by piece; or it refuses, and then the answer goes out at
once and the body is thrown away as it arrives. So nobody makes the server hold a body that it has
not agreed to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.web import server
from twisted.web.resource import IResource

from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.loop.turns import Turns
from telemeter.loop.waiters import Waiters
from telemeter.observe.outcome import Outcome
from telemeter.web.site.admission import SiteRoute
from telemeter.web.site.channel import Channel
from telemeter.web.site.connections import Connections
from telemeter.web.site.guard import Guard
from telemeter.web.site.request import Request


class Site(server.Site):
    """A site that serves a resource to guarded requests.

    Attributes:
        routes: by path, without the query.
        branches: the routes that everything below their paths belongs to, unless it has a route of
            its own; the longest paths first.
        observers: called with the outcome of each request when it is over.
        active: the requests that are under way.
        over: how many are no longer.
        channels: the connections that are open.
        connections: bound how many there are.
        guard: has its say about every request; None: there is none.
        timeouts: how long clients may take.
        turns: of those who sent several requests at once.
        stopping: whether no more requests are wanted.
    """

    noisy = False
    protocol = Channel  # type: ignore[assignment]

    def __init__(
        self,
        resource: IResource,
        routes: Mapping[bytes, SiteRoute],
        reactor: IReactorTime,
        branches: Sequence[SiteRoute] = (),
        timeouts: Timeouts = TIMEOUTS,
        *,
        guard: Guard | None = None,
        connections: int | None = None,
    ) -> None:
        super().__init__(resource, requestFactory=Request, timeout=timeouts.idle, reactor=reactor)
        self.timeouts = timeouts
        self.routes = routes
        self.branches = [(each.path.rstrip("/").encode() + b"/", each) for each in branches]
        self.observers: list[Callable[[Outcome], None]] = []
        self.active: set[Request] = set()
        self.over = 0
        self.guard = guard
        self.channels: set[Channel] = set()
        self.connections: Connections[Channel] = Connections(reactor, connections)
        self.stopping = False
        self.turns = Turns(reactor)
        self._idle: Waiters[None] = Waiters()

    def route_at(self, path: bytes) -> SiteRoute | None:
        """Return the route of a path, if there is one."""
        route = self.routes.get(path)
        if route is None and self.branches:
            return next((each for below, each in self.branches if path.startswith(below)), None)
        return route

    def acceptableProtocols(self) -> list[bytes]:
        """Return what clients are told over TLS that we speak: never HTTP/2, which has no gates.

        Twisted offers HTTP/2 too wherever the package `h2` happens to be installed.
        """
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """No access log in Apache's format: requests log themselves."""

    def stopFactory(self) -> None:
        """See `startFactory`."""

    def log(self, request: Any) -> None:
        """See `startFactory`."""

    def drain(self) -> Deferred[None]:
        """Take no more requests; fires when those under way are answered and all is sent."""
        self.stopping = True
        for channel in list(self.channels):
            channel.stop()
        if not self.channels:
            return succeed(None)
        return self._idle.wait()

    def channel_closed(self, channel: Channel) -> None:
        """Forget a connection that is gone."""
        self.channels.discard(channel)
        self.connections.closed(channel)
        if self.stopping and not self.channels:
            self._idle.tell(None)

    def abort(self) -> None:
        """Close all connections at once."""
        for channel in list(self.channels):
            channel.transport.abortConnection()
