"""A client's connection: one request in a turn, each in its time, and bodies that nobody wants.

The way of a request from here to the upstream is listed in the docstring of `telemeter.web.site`.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.loop.turns import Turns
from telemeter.loop.twisted_private import ServerChannel
from telemeter.web.site.answers import PHRASES, TEXT
from telemeter.web.site.connections import Connections
from telemeter.web.site.request import Request

#: How many bytes of a body nobody wants are read, for the sender to see the answer.
_DRAIN_BYTES: Final = 16 << 20
#: How a body in chunks ends, without trailers.
_LAST_CHUNK: Final = b"0\r\n\r\n"
#: How many connections may have sent more requests than they have answers for; what they sent is
#: held, some 64 KiB each. Others are closed after an answer.
_MOST_AHEAD: Final = 500
#: How many bytes a second of a body must come on the average, once it has had its grace.
_LEAST_PACE: Final = 1000
#: The least time between two looks at a body's pace, in seconds.
_LOOK_SECONDS: Final = 0.1
_LONG_HEADERS: Final = (
    f"the headers may have {HTTPChannel.totalHeadersSize} bytes, and be {HTTPChannel.maxHeaders}: "
    "these limits are fixed, and there is more"
)
_FIXED: Final = "this limit is fixed, and it has more"

log = Logger()


class _Site(Protocol):
    """The part of the site that a channel needs; see `telemeter.web.site.site.Site`."""

    reactor: IReactorTime
    active: set[Request]
    channels: set[Channel]
    timeouts: Timeouts
    turns: Turns

    @property
    def connections(self) -> Connections[Any]: ...
    def channel_closed(self, channel: Channel) -> None: ...


@implementer(IHandshakeListener)
class Channel(ServerChannel):
    """A connection. It can go on reading a body that nobody wants, for a while.

    Closing at once would reset the connection while the sender is still writing, and the sender
    would see the reset instead of the answer.

    Of requests that come one behind the other without waiting for answers, it takes one in each
    turn of the event loop. What has begun has to come in its time, see `_check_progress`.
    """

    site: _Site
    factory: Any
    transport: Any
    requestFactory = Request

    def __init__(self) -> None:
        super().__init__()
        self._is_secure: bool | None = None
        self._peer: IAddress | None = None
        self._host: IAddress | None = None
        self._was_used = False
        self._is_shaking_hands = False
        self._is_lost = False
        self._late: IDelayedCall | None = None
        self._held_since: float | None = None
        self._held = 0.0  # for how many seconds of the watched request we did not read
        self._drained: int | None = None
        self._unwanted: int | None = None  # bytes of the body that nobody wants; None: in chunks
        self._drain_end: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.site = self.factory
        self.site.channels.add(self)
        self.site.connections.opened(self)
        self._is_shaking_hands = self.isSecure()
        super().connectionMade()

    # Each request asks for these, and they stay what they are; one is a call to the system. Where a
    # balancer says who its client is, they are not known before something comes.

    def isSecure(self) -> bool:
        if self._is_secure is None:
            self._is_secure = bool(super().isSecure())
        return self._is_secure

    def getPeer(self) -> IAddress:
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer

    def getHost(self) -> IAddress:
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def handshakeCompleted(self) -> None:
        """Wait for the first request, now that the TLS handshake is done."""
        self._is_shaking_hands = False
        self.setTimeout(None)
        self.setTimeout(self.site.timeouts.idle)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a line that is longer than any may be, which Twisted would not."""
        if self.requests:
            self._reject(431, _LONG_HEADERS)
        else:
            self._reject(414, f"the request line may have {self.MAX_LENGTH} bytes: {_FIXED}")

    def malformedReceived(self) -> None:
        """Twisted cannot make a request of what it read: say why, which Twisted would not."""
        if self.are_headers_too_many():
            self._reject(431, _LONG_HEADERS)
        else:
            self._reject(400, "this is no well-formed HTTP request")

    def _reject(self, status: int, reason: str) -> None:
        """Answer what no request came of, or half of one, and hang up."""
        if self._drained is None:  # otherwise the answer has gone out already
            body = reason.encode() + b"\n"
            self.transport.write(
                b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%s"
                % (status, PHRASES[status], TEXT.encode(), len(body), body)
            )
            half = next((each for each in self.requests if each in self.site.active), None)
            if half is not None:
                half.rejected(status, reason)
            else:
                peer = getattr(self.transport.getPeer(), "host", "")
                log.info("malformed request", status=status, reason=reason, peer=peer)
            # Over TLS, an orderly end would wait for the other side.
            self._drained = 0
            self._end_watch()
            self._drain_end = self.site.reactor.callLater(
                self.site.timeouts.drain, self.transport.abortConnection
            )
        self.loseConnection()

    def hold(self) -> None:
        """Read no more for now."""
        if self._held_since is None:
            self._held_since = self.site.reactor.seconds()
        self.transport.pauseProducing()

    def release(self) -> None:
        """Read again."""
        if self._held_since is not None:
            self._held += self.site.reactor.seconds() - self._held_since
            self._held_since = None
        self.transport.resumeProducing()

    def drain(self, remaining: int | None) -> None:
        """From now on, read and forget; then close.

        Args:
            remaining: how many bytes of the body are still to come; None: it comes in chunks.
        """
        self.persistent = 0
        self._drained = 0
        self._unwanted = remaining
        self._end_watch()
        self.release()
        self._drain_end = self.site.reactor.callLater(
            self.site.timeouts.drain, self.transport.abortConnection
        )

    def _forget(self, data: bytes) -> None:
        """Take no note of a piece of a body but that it has come.

        Chunks are not taken apart: that would cost the more the smaller they are. So where a body
        ends is only seen if nothing comes behind it; otherwise the time to drain ends it.
        """
        self._drained = (self._drained or 0) + len(data)
        if self._drained > _DRAIN_BYTES:
            self.transport.abortConnection()
        elif self._unwanted is None:
            if data.endswith(_LAST_CHUNK):
                self.loseConnection()
        elif self._drained >= self._unwanted:
            self.loseConnection()

    def setTimeout(self, period: float | None) -> float | None:
        """Start or end the timer; whenever Twisted starts it, no request has begun."""
        if period is not None:
            if self._is_shaking_hands:
                period = self.site.timeouts.handshake
            else:
                period = self.site.timeouts.idle
                if not self._was_used:  # it may be one that is no balancer's
                    period = min(period, TIMEOUTS.idle)
        previous: float | None = super().setTimeout(period)
        return previous

    def timeoutConnection(self) -> None:
        """End a connection that has waited long enough, at once if its handshake is not done."""
        if self._is_shaking_hands:  # an orderly end would wait for the other side
            self.transport.abortConnection()
        else:
            super().timeoutConnection()

    def _watch_request(self) -> None:
        """Have a request that has begun, and is not there yet, come in its time.

        Not to be called while one is being answered: then there is no timer (`timeOut`).
        """
        if self._late is not None or self._drained is not None:
            return
        if self.requests or (self.has_unread() and not self.paused):
            timeouts = self.site.timeouts
            self._held = 0.0
            self._late = self.site.reactor.callLater(timeouts.headers, self._check_progress)
            # However long the connection may be idle between requests. To move a timer forward
            # would take as long as there are timers.
            super().setTimeout(None)
            super().setTimeout(timeouts.headers + timeouts.body)

    def _end_watch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _check_progress(self) -> None:
        """Hang up on a request that comes too slowly, or look again when it might have become so.

        Its headers have a time to come in, and so has its body, which must also keep up a pace
        after a while: otherwise a sender could keep what we hold of it for as long as it likes.
        """
        self._late = None
        timeouts = self.site.timeouts
        request = self.requests[-1] if self.requests else None
        if request is None or not request.has_headers:
            self._reject(
                408,
                f"the headers had not come whole after {timeouts.headers:g} seconds "
                "(--headers-timeout)",
            )
            return
        now = self.site.reactor.seconds()
        held = self._held + (0.0 if self._held_since is None else now - self._held_since)
        took, size = now - request.began - held, request.body_size
        # Until then, what has come is enough.
        enough = min(timeouts.body, timeouts.body_grace + size / _LEAST_PACE)
        if took < enough:
            wait = max(enough - took, _LOOK_SECONDS)
            self._late = self.site.reactor.callLater(wait, self._check_progress)
            return
        if took >= timeouts.body:
            least = f"it must be whole after {timeouts.body:g} (--body-timeout)"
        else:
            least = (
                f"after {timeouts.body_grace:g} seconds {_LEAST_PACE} bytes a second are the least"
            )
        self._reject(408, f"of the body {size} bytes had come after {took:.0f} seconds: {least}")

    def dataReceived(self, data: bytes) -> None:
        if self.transport.disconnecting:
            return  # TLS hands on what it has read already, also after loseConnection
        if self._drained is not None:
            self._forget(data)
            return
        self.site.connections.heard(self)
        super().dataReceived(data)
        if self.timeOut is not None:
            self._watch_request()

    def rawDataReceived(self, data: bytes) -> None:
        if self._drained is None:
            super().rawDataReceived(data)
        else:
            self._forget(data)

    def requestDone(self, request: Request) -> None:
        if self._drained is not None:
            self.requests.remove(request)
            return
        if not self._was_used:
            self._was_used = True
            self.site.connections.used(self)
        # Another request that is here already has its turn when others have had theirs.
        self.paused = self.has_unread()
        if self.paused and len(self.site.turns) >= _MOST_AHEAD:
            self.persistent = 0
        super().requestDone(request)
        if self.paused and not self.transport.disconnecting:
            self.hold()
            self.site.turns.call(self._take_next)

    def _take_next(self) -> None:
        """Take the next request, of which at least a part is here."""
        if self._is_lost or self.transport.disconnecting:
            return
        self.paused = False
        super().dataReceived(b"")
        if not self.paused:
            self.release()
            if self.timeOut is not None:
                self._watch_request()

    def allContentReceived(self) -> None:
        if self._drained is None:
            if self._late is not None:
                self._end_watch()
            super().allContentReceived()
        else:
            self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_lost = True
        self.site.channel_closed(self)
        self._end_watch()
        if self._drain_end is not None and self._drain_end.active():
            self._drain_end.cancel()
        super().connectionLost(reason)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self.requests) and self.timeOut is None and self._drained is None

    def give_way(self) -> None:
        """Close at once, because there are too many connections."""
        self.transport.abortConnection()

    def stop(self) -> None:
        """Close, after the request that is being answered, if there is one."""
        self.persistent = 0
        if self.site.active.isdisjoint(self.requests):
            self.loseConnection()
