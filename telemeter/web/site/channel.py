"""A client's connection, which can go on reading a body that nobody wants."""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.loop.twisted_private import ServerChannel
from telemeter.web.site.answers import PHRASES, TEXT
from telemeter.web.site.request import Request

#: How many bytes of a body nobody wants are read, for the sender to see the answer.
_DRAIN_BYTES: Final = 16 << 20
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

    def channel_closed(self, channel: Channel) -> None: ...


class Channel(ServerChannel):
    """A connection. It can go on reading a body that nobody wants, for a while.

    Closing at once would reset the connection while the sender is still writing, and the sender
    would see the reset instead of the answer.
    """

    site: _Site
    factory: Any
    transport: Any
    requestFactory = Request

    def __init__(self) -> None:
        super().__init__()
        self._was_used = False
        self._drained: int | None = None
        self._drain_end: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.site = self.factory
        self.site.channels.add(self)
        super().connectionMade()

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
        self.loseConnection()

    def hold(self) -> None:
        """Read no more for now."""
        self.transport.pauseProducing()

    def release(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def drain(self) -> None:
        """From now on, read and forget; then close."""
        self.persistent = 0
        self._drained = 0
        self.release()
        self._drain_end = self.site.reactor.callLater(
            self.site.timeouts.drain, self.transport.abortConnection
        )

    def setTimeout(self, period: float | None) -> float | None:
        """Start or end the timer; whenever Twisted starts it, no request has begun."""
        if period is not None:
            period = self.site.timeouts.idle
            if not self._was_used:  # it may be one that is no balancer's, or a silent handshake
                period = min(period, TIMEOUTS.idle)
        previous: float | None = super().setTimeout(period)
        return previous

    def _limit_pause(self) -> None:
        """Let a request that has begun, and is not there yet, be silent for its own time only."""
        silence = self.site.timeouts.silence
        if self.requests and self.timeOut not in (None, silence):
            super().setTimeout(None)  # to move a timer forward takes as long as there are timers
            super().setTimeout(silence)

    def dataReceived(self, data: bytes) -> None:
        if self.transport.disconnecting:
            return  # TLS hands on what it has read already, also after loseConnection
        if self._drained is not None:
            self._drained += len(data)
            if self._drained > _DRAIN_BYTES:
                self.transport.abortConnection()
                return
        super().dataReceived(data)
        self._limit_pause()

    def requestDone(self, request: Request) -> None:
        if self._drained is None:
            self._was_used = True
            super().requestDone(request)
            self._limit_pause()  # the next may have come meanwhile, in part
        else:
            self.requests.remove(request)

    def allContentReceived(self) -> None:
        if self._drained is None:
            super().allContentReceived()
        else:
            self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channel_closed(self)
        if self._drain_end is not None and self._drain_end.active():
            self._drain_end.cancel()
        super().connectionLost(reason)

    def stop(self) -> None:
        """Close, after the request that is being answered, if there is one."""
        self.persistent = 0
        if self.site.active.isdisjoint(self.requests):
            self.loseConnection()
