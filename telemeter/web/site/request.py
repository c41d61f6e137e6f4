"""A request: decided on by its headers, its body given piece by piece to its admission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, AnyStr, Final, Protocol
from urllib.parse import unquote_to_bytes

from prometheus_client import Counter, Histogram
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.resource import IResource

from telemeter.loop.clocks import SYSTEM_WALL_CLOCK
from telemeter.observe.outcome import Outcome
from telemeter.web.site.access_log import CLIENT_WENT_AWAY, log_request
from telemeter.web.site.admission import Admission, SiteRoute
from telemeter.web.site.answers import (
    PHRASES,
    TEXT,
    answer_failure,
    answer_refused,
    broken,
    method_not_allowed,
    not_found,
)
from telemeter.web.site.guard import Guard
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

#: The largest body that a route without a gate ignores.
_IGNORED_BODY: Final = 65536
#: To take a chunk costs time however small it is: beyond so many, so many bytes are their least
#: size on the average.
_MOST_SMALL_CHUNKS: Final = 4096
_LEAST_CHUNK: Final = 16
_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")
)

log = Logger()


class _Site(Protocol):
    """The part of the site that a request needs; see `telemeter.web.site.site.Site`."""

    reactor: IReactorTime
    resource: IResource
    active: set[Any]
    over: int
    stopping: bool

    @property
    def observers(self) -> Sequence[Callable[[Outcome], None]]: ...
    @property
    def guard(self) -> Guard | None: ...
    def route_at(self, path: bytes) -> SiteRoute | None: ...


class _Channel(Protocol):
    """The part of the channel that a request needs; see `telemeter.web.site.channel.Channel`."""

    @property
    def site(self) -> _Site: ...
    def request_line(self) -> tuple[bytes, bytes, bytes]: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def drain(self, remaining: int | None) -> None: ...


class Request(server.Request):
    """A request whose body goes to its admission, not to a buffer.

    Attributes:
        admission: takes the body; None: nobody does.
        outcome: what becomes of the request.
        route: the route of its path; None: there is none.
        has_headers: whether its headers are complete.
        began: when they were, in elapsed seconds.
        body_size: how many bytes of its body have come.
    """

    # Twisted has these of its own classes; a request of ours is only made by `Channel`.
    site: _Site  # type: ignore[assignment]
    channel: _Channel  # type: ignore[assignment]
    # And this is not None once the headers are there, which is when a request begins to be ours.
    method: bytes
    path: bytes
    admission: Admission | None = None
    defaultContentType = TEXT.encode()

    def __init__(self, channel: HTTPChannel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.site = self.channel.site
        self.outcome = Outcome()
        self.route: SiteRoute | None = None
        self._meant: SiteRoute | None = None  # by a path that has to be cleaned
        self.body_size = 0
        self.has_headers = False
        self.began = 0.0
        self._length: int | None = None
        self._pieces = 0
        self._is_checked = False
        self._complete = False
        self._refused = False
        self._gone = False

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
        super().setResponseCode(code, message or PHRASES.get(code))

    def gotLength(self, length: int | None) -> None:
        """Decide whether a body may come, now that the headers are complete."""
        self.began = self.site.reactor.seconds()
        self.has_headers = True
        self._length = length
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
            self._refuse_early(broken(Failure()))
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
            self._refuse_early(refused if isinstance(refused, Refused) else broken(failure))
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

    def _check_framing(self) -> None:
        """Refuse what is no request of HTTP/1.1 (RFC 9112, sections 3.2 and 6.1)."""
        hosts = self.requestHeaders.getRawHeaders(b"Host", ())
        if len(hosts) > 1 or (not hosts and self.clientproto == b"HTTP/1.1"):
            raise Refused(400, f"expected one Host header, saw {len(hosts)}")
        has = self.requestHeaders.hasHeader
        if self._length == 0 and has(b"Transfer-Encoding") and not has(b"Content-Length"):
            raise Refused(400, "expected a Content-Length, or Transfer-Encoding: chunked")

    def _known_route(self) -> SiteRoute:
        if not self._is_checked:
            self._check_framing()
            self._is_checked = True
        if self.route is None:
            raise self._no_route()
        if self.method.decode("latin-1") not in self.route.methods:
            raise method_not_allowed(self.route.methods)
        if self.site.guard is not None:
            self.site.guard.check(self, self.route)
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
        self._pieces += 1
        try:
            if self._length is None and self._pieces > _MOST_SMALL_CHUNKS:
                self._check_chunks()
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

    def _check_chunks(self) -> None:
        if self.body_size < self._pieces * _LEAST_CHUNK:
            raise Refused(
                400,
                f"the body came in {self._pieces} chunks with {self.body_size} bytes in all: of "
                f"more than {_MOST_SMALL_CHUNKS} chunks, {_LEAST_CHUNK} bytes each on the average "
                "are the least",
            )

    def _refuse_early(self, refused: Refused) -> None:
        """Answer now, though the body is still to come."""
        self._refused = True
        if refused.status >= 500 and self.admission is not None:
            self.admission.abandoned()  # through no fault of the sender's
        self.requestHeaders.removeHeader("Expect")  # no "100 Continue" behind the answer
        self.channel.drain(None if self._length is None else self._length - self.body_size)
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
        self.setHeader("Date", _date_at(int(SYSTEM_WALL_CLOCK.now())))
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
        if self.admission is not None:
            self.admission.over()
        took = self.site.reactor.seconds() - self.began
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


@lru_cache(1)
def _date_at(second: int) -> bytes:
    """Return the header Date of answers in a second; all of that second have the same."""
    date: bytes = datetimeToString(second)
    return date


@lru_cache(1024)
def _meters(code: int, handler: str, method: str) -> tuple[Counter, Histogram, Histogram]:
    """Return what counts requests of a kind; to look that up in each metric takes its time."""
    labels = (str(code), handler, method)
    return REQUESTS.labels(*labels), DURATION.labels(*labels), SIZE.labels(*labels)
