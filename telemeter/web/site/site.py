"""The HTTP site: decides on a request's headers before its body is held.

Twisted reads a request's body whole before a resource sees the request. Here a route may have a
gate, which is asked as soon as the headers are there. It admits the request, and then takes the
body piece by piece; or it refuses, and then the answer goes out at once and the body is thrown away
as it arrives. So nobody makes the server hold a body that it has not agreed to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import Any, AnyStr, Final, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from prometheus_client import Counter, Histogram
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from telemeter.loop.twisted_private import ServerChannel
from telemeter.observe.outcome import Outcome
from telemeter.web.site.access_log import CLIENT_WENT_AWAY, log_request
from telemeter.web.site.paths import clean, moved
from telemeter.web.site.refused import Refused

REQUESTS = Counter(
    "http_requests_total", "Requests by handler, method and status.", ["code", "handler", "method"]
)
DURATION = Histogram(
    "http_request_duration_seconds",
    "How long requests took, from their headers to the end of the answer.",
    ["code", "handler", "method"],
)
SIZE = Histogram(
    "http_request_size_bytes",
    "The size of the bodies of requests, as they arrived.",
    ["code", "handler", "method"],
    buckets=(1024, 8192, 65536, 262144, 524288, 1048576, 2097152),
)

TEXT: Final = "text/plain; charset=utf-8"
#: How many bytes of a body nobody wants are read, for the sender to see the answer.
_DRAIN_BYTES = 16 << 20
#: For how many seconds.
_DRAIN_SECONDS = 10.0
#: The largest body that a route without a gate ignores.
_IGNORED_BODY = 65536
#: For how many seconds a connection may wait for its next request, unless told otherwise: longer
#: than the 60 seconds for which common load balancers keep theirs. If both closed a connection at
#: once, the balancer would have sent a request into it.
IDLE_SECONDS: Final = 75.0
#: For how many seconds a request that has begun may be silent.
_PAUSE_SECONDS: Final = 60.0
_LONG_HEADERS: Final = (
    f"the headers may have {HTTPChannel.totalHeadersSize} bytes, and be {HTTPChannel.maxHeaders}: "
    "these limits are fixed, and there is more"
)
_FIXED: Final = "this limit is fixed, and it has more"
_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"))

log = Logger()


class Admission(Protocol):
    """A request that was admitted by its headers, and takes its body."""

    @property
    def allowed(self) -> Deferred[None] | None:
        """Return what the body has to wait for: no more of it is read before that has fired.

        It fires with None, or fails with `Refused`, which is the answer then. None: the body need
        not wait.
        """
        ...

    def write(self, data: bytes) -> None:
        """Take a piece of the body.

        Raises:
            Refused: the body is too long, say.
        """

    def abandoned(self) -> None:
        """Undo what admitting the request did: its sender left before the body was complete."""


class Gate(Protocol):
    """Decides on a request by its headers."""

    def __call__(self, request: IRequest, length: int | None) -> Admission:
        """Admit a request.

        Args:
            request: with its headers; its body is not there yet.
            length: of the body in bytes; None if the sender does not say.

        Raises:
            Refused: it is not admitted.
        """
        ...


class SiteRoute(Protocol):
    """A route as the site sees it."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def gate(self) -> Gate | None: ...


_Admitted = TypeVar("_Admitted", bound=Admission)


def admit(request: IRequest, gate: Callable[[IRequest, int | None], _Admitted]) -> _Admitted:
    """Return the admission of a request whose body is complete.

    The site has asked the gate already, unless there was no body to guard against (or another site
    serves the resource, as in tests); then the gate is asked now.
    """
    admission: _Admitted | None = getattr(request, "admission", None)
    if admission is None:
        body = request.content.read()
        admission = gate(request, len(body))
        admission.write(body)
    return admission


def outcome_of(request: IRequest) -> Outcome:
    """Return the outcome of a request, to fill in; under another site, nobody will look at it."""
    outcome: Outcome | None = getattr(request, "outcome", None)
    return Outcome() if outcome is None else outcome


def answer_refused(request: IRequest, refused: Refused) -> bytes:
    """Fill in an answer from a refusal, and return its body."""
    outcome = outcome_of(request)
    outcome.reason = refused.reason
    if refused.detail:
        outcome.detail = refused.detail
    request.setResponseCode(refused.status)
    request.setHeader("Content-Type", TEXT)
    for name, value in refused.headers.items():
        request.setHeader(name, value)
    body = refused.reason.encode() + b"\n"
    request.setHeader("Content-Length", str(len(body)))
    return body


def answer_failure(request: IRequest, failure: Failure) -> bytes:
    """Answer that something of ours broke: a number for the client, the details for the log."""
    return answer_refused(request, _broken(failure))


def _broken(failure: Failure) -> Refused:
    number = request_number()
    log.failure("internal server error", failure, requestid=number)
    return Refused(500, f"Internal server error, requestid={number}")


def request_number() -> int:
    """Return the number that a client is given to ask about, because it must not be told more."""
    return random.getrandbits(63)


class Request(server.Request):
    """A request whose body goes to its admission, not to a buffer."""

    site: Site
    channel: Channel
    admission: Admission | None = None
    defaultContentType = TEXT.encode()

    def __init__(self, channel: HTTPChannel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.site = self.channel.site
        self.outcome = Outcome()
        self.route: SiteRoute | None = None
        self._meant: SiteRoute | None = None  # by a path that has to be cleaned
        self.body_size = 0
        self._complete = False
        self._refused = False
        self._gone = False
        self._began = 0.0

    def parseCookies(self) -> None:
        """No route uses cookies."""

    def getHeader(self, key: AnyStr) -> AnyStr | None:
        """Return the last value of a header; what is not UTF-8 in it is replaced."""
        name = key.encode() if isinstance(key, str) else key
        value = super().getHeader(name)
        if value is None or isinstance(key, bytes):
            return value
        return value.decode("utf-8", "replace")

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status; Twisted has no words for some that are common by now, as 429."""
        super().setResponseCode(code, message or _PHRASES.get(code))

    def gotLength(self, length: int | None) -> None:
        """Decide whether a body may come, now that the headers are complete."""
        self._began = self.site.reactor.seconds()
        self.site.active.add(self)
        self.content = BytesIO()
        self._set_line(*self.channel.request_line())
        self.route = self.site.route_at(unquote_to_bytes(self.path))
        if length == 0:
            return  # nothing to hold: the resource answers, refusals included
        try:
            self.admission = self._ask_gate(length)
        except Refused as refused:
            self._refuse_early(refused)
            return
        except Exception:
            self._refuse_early(_broken(Failure()))
            return
        allowed = None if self.admission is None else self.admission.allowed
        if allowed is not None:
            if not allowed.called:
                self.channel.hold()
            allowed.addCallbacks(self._allowed, self._not_allowed)

    def _allowed(self, result: None) -> None:
        """Read the body on: the answer that it had to wait for is there."""
        if not self._complete and not self._refused and not self._gone:
            self.channel.release()

    def _not_allowed(self, failure: Failure) -> Failure | None:
        """No body is wanted after all; a handler that is waiting for the answer says so itself."""
        if self._complete:
            return failure
        if not self._refused and not self._gone:
            refused = failure.value
            self._refuse_early(refused if isinstance(refused, Refused) else _broken(failure))
        return None

    def _set_line(self, method: bytes, uri: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = method, uri, version
        path, _, _ = uri.partition(b"?")
        if not path.startswith(b"/") and b"://" in path:  # the absolute form, as proxies send it
            path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
        self.path = path
        self.args = {}

    def _ask_gate(self, length: int | None) -> Admission | None:
        gate = self._known_route().gate
        return None if gate is None else gate(self, length)

    def _known_route(self) -> SiteRoute:
        if self.route is None:
            raise self._no_route()
        if self.method.decode("latin-1") not in self.route.methods:
            raise method_not_allowed(self.route.methods)
        return self.route

    def _no_route(self) -> Refused:
        if self.path.startswith(b"/"):
            path = clean(unquote_to_bytes(self.path))
            self._meant = self.site.route_at(path)
            if self._meant is not None:
                return moved(path, self.uri)
        return not_found()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body."""
        self.body_size += len(data)
        if self._refused:
            return
        try:
            if self.admission is not None:
                self.admission.write(data)
            elif self.body_size > _IGNORED_BODY:
                raise Refused(
                    413,
                    f"no body is expected here: one is ignored up to {_IGNORED_BODY} bytes, a "
                    f"limit that is fixed; it has {self.body_size} or more",
                )
        except Refused as refused:
            self._refuse_early(refused)

    def _refuse_early(self, refused: Refused) -> None:
        """Answer now, though the body is still to come."""
        self._refused = True
        self.requestHeaders.removeHeader("Expect")  # no "100 Continue" behind the answer
        self.channel.drain()
        self._set_default_headers()
        self.setHeader("Connection", "close")
        self.write(answer_refused(self, refused))
        self.finish()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Let the resource answer the request, which is complete."""
        self._complete = True
        self.process()

    def process(self) -> None:
        self._set_default_headers()
        self.prepath = []
        try:
            self.postpath = self._known_route().path.encode()[1:].split(b"/")
            self.render(self.site.resource)
        except Refused as refused:
            self.write(answer_refused(self, refused))
            self.finish()
        except BaseException:
            self.processingFailed(Failure())

    def _set_default_headers(self) -> None:
        self.setHeader("Server", "telemeter")
        self.setHeader("Date", datetimeToString())
        self.setHeader("X-Content-Type-Options", "nosniff")
        if self.site.stopping:
            self.setHeader("Connection", "close")

    def processingFailed(self, reason: Failure) -> Failure:
        if not self.startedWriting:
            self.write(answer_failure(self, reason))
        self.finish()
        return reason

    def getRequestHostname(self) -> bytes:
        """One name for all: no route depends on the Host header, which may hold anything."""
        return b"telemeter"

    def finish(self) -> None:
        self._account(self.code)
        super().finish()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        if not self._complete and self.admission is not None and not self._refused:
            self.admission.abandoned()
        self._account(CLIENT_WENT_AWAY)
        super().connectionLost(reason)

    def rejected(self, code: int, reason: str) -> None:
        """Take note that the channel has answered, because the body cannot be read on."""
        self.outcome.reason = reason
        self._account(code)

    def _account(self, code: int) -> None:
        """Count and log the request, once."""
        if self not in self.site.active:
            return
        self.site.active.discard(self)
        self.site.over += 1
        took = self.site.reactor.seconds() - self._began
        route = self.route or self._meant
        if route is not None and route.name:
            method = self.method.decode().lower() if self.method in _METHODS else "unknown"
            count, duration, size = _meters(code, route.name, method)
            count.inc()
            duration.observe(took)
            size.observe(self.body_size)
        outcome = self.outcome
        outcome.status, outcome.seconds = code, took
        log_request(
            outcome,
            self.method.decode("latin-1"),
            self.path.decode("latin-1"),
            self.body_size,
            getattr(self.client, "host", ""),
        )
        if self.route is not None:
            outcome.path, outcome.headers = self.route.name, self.requestHeaders
        for observe in self.site.observers:
            try:
                observe(outcome)
            except Exception:
                log.failure("an observer of requests failed")


@lru_cache(1024)
def _meters(code: int, handler: str, method: str) -> tuple[Counter, Histogram, Histogram]:
    """Return what counts requests of a kind; to look that up in each metric takes its time."""
    labels = (str(code), handler, method)
    return REQUESTS.labels(*labels), DURATION.labels(*labels), SIZE.labels(*labels)


def not_found() -> Refused:
    """Return the refusal of a path that nothing is at."""
    return Refused(404, "not found")


def method_not_allowed(methods: tuple[str, ...]) -> Refused:
    """Return the refusal of a method that a path does not take."""
    allowed = ", ".join(methods)
    return Refused(405, f"this path takes {allowed} only", {"Allow": allowed})


class Channel(ServerChannel):
    """A connection. It can go on reading a body that nobody wants, for a while.

    Closing at once would reset the connection while the sender is still writing, and the sender
    would see the reset instead of the answer.
    """

    site: Site
    factory: Site
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
                % (status, _PHRASES[status], TEXT.encode(), len(body), body)
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
            _DRAIN_SECONDS, self.transport.abortConnection
        )

    def setTimeout(self, period: float | None) -> float | None:
        """Start or end the timer; whenever Twisted starts it, no request has begun."""
        if period is not None:
            period = self.site.idle_seconds
            if not self._was_used:  # it may be one that is no balancer's, or a silent handshake
                period = min(period, IDLE_SECONDS)
        previous: float | None = super().setTimeout(period)
        return previous

    def _limit_pause(self) -> None:
        """Let a request that has begun, and is not there yet, be silent for its own time only."""
        if self.requests and self.timeOut not in (None, _PAUSE_SECONDS):
            super().setTimeout(None)  # to move a timer forward takes as long as there are timers
            super().setTimeout(_PAUSE_SECONDS)

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


class Site(server.Site):
    """Serves a resource to guarded requests.

    Attributes:
        routes: by path, without the query.
        branches: the routes that everything below their paths belongs to, unless it has a route of
            its own; the longest paths first.
        observers: called with the outcome of each request when it is over.
        active: the requests that are under way.
        over: how many are no longer.
        channels: the connections that are open.
        idle_seconds: for how long a connection may wait for a request.
        stopping: whether no more requests are wanted.
    """

    noisy = False
    protocol = Channel  # type: ignore[assignment]

    def __init__(
        self,
        resource: IResource,
        routes: Mapping[bytes, SiteRoute],
        reactor: Any,
        branches: Sequence[SiteRoute] = (),
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        super().__init__(resource, requestFactory=Request, timeout=idle_seconds, reactor=reactor)
        self.idle_seconds = idle_seconds
        self.routes = routes
        self.branches = [(each.path.rstrip("/").encode() + b"/", each) for each in branches]
        self.observers: list[Callable[[Outcome], None]] = []
        self.active: set[Request] = set()
        self.over = 0
        self.channels: set[Channel] = set()
        self.stopping = False
        self._idle: list[Deferred[None]] = []

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
        waiting: Deferred[None] = Deferred(self._idle_cancelled)
        self._idle.append(waiting)
        return waiting

    def _idle_cancelled(self, waiting: Deferred[None]) -> None:
        self._idle.remove(waiting)

    def channel_closed(self, channel: Channel) -> None:
        """Forget a connection that is gone."""
        self.channels.discard(channel)
        if self.stopping and not self.channels:
            waiting, self._idle = self._idle, []
            for deferred in waiting:
                deferred.callback(None)

    def abort(self) -> None:
        """Close all connections at once."""
        for channel in list(self.channels):
            channel.transport.abortConnection()
