"""Routes: one table that both Klein and the site's gates read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Final, TypeAlias

from klein import Klein
from prometheus_client import Counter
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from telemeter.loop.deadlines import Deadlines
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.web.site.admission import Gate
from telemeter.web.site.answers import (
    answer_failure,
    answer_refused,
    method_not_allowed,
    not_found,
)
from telemeter.web.site.guard import Guard
from telemeter.web.site.refused import Refused
from telemeter.web.site.site import Site

#: Answers a request: returns the body or an awaitable of it, or raises `Refused`.
Handler: TypeAlias = Callable[[IRequest], Any]

LATE: Final = Counter(
    "telemeter_requests_late_total",
    "Requests that were answered with 503 because their time was over (--request-timeout).",
)
#: When a sender whose time was over should try again, in seconds.
_RETRY_SECONDS: Final = 15


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    Attributes:
        path: the path, as `/upload`.
        handler: answers a request; may be a coroutine function, and may raise `Refused`. None: it
            has written the body itself.
        methods: the methods it takes.
        name: the value of the label `handler` in the metrics; empty: not counted.
        gate: decides on the headers; None for routes that ignore bodies.
        branch: whether everything below the path belongs to it that has no route of its own.
        listed: whether it is in the list of paths at /.
        timed: whether its answers have the deadline of requests (`Timeouts.request`). Not so where
            an answer may well take longer: streams, and what operators wait for.
        any_host: whether it answers whatever host a request is for, where there is a guard.
        any_caller: whether it answers who shows no token, where there is a guard.
    """

    path: str
    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")
    name: str = ""
    gate: Gate | None = None
    branch: bool = False
    listed: bool = True
    timed: bool = True
    any_host: bool = False
    any_caller: bool = False


def make_resource(routes: Iterable[Route], deadlines: Deadlines | None = None) -> IResource:
    """Return a Klein resource that serves routes, and answers everything else in plain text.

    Args:
        routes: what it serves.
        deadlines: of the answers of timed routes; None: they have none.
    """
    app = Klein()
    app.url_map.merge_slashes = False
    for route in routes:
        app.route(
            route.path, methods=list(route.methods), endpoint=route.path, branch=route.branch
        )(_endpoint(route.handler, deadlines if route.timed else None))

    @app.handle_errors(Refused)
    def refused(request: IRequest, failure: Failure) -> bytes:
        return answer_refused(request, failure.value)  # type: ignore[arg-type]

    @app.handle_errors(HTTPException)
    def routing_failed(request: IRequest, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            return answer_refused(
                request, method_not_allowed(tuple(sorted(error.valid_methods or ())))
            )
        return answer_refused(request, not_found())

    @app.handle_errors(Exception)
    def failed(request: IRequest, failure: Failure) -> bytes:
        return answer_failure(request, failure)

    resource: IResource = app.resource()
    return resource


def _endpoint(
    handler: Callable[[IRequest], Any], deadlines: Deadlines | None
) -> Callable[..., Any]:
    """Return a handler as Klein calls it, whose answer tells its length, and comes in time."""

    def endpoint(request: IRequest, *_: Any) -> bytes | Deferred[bytes]:
        body = handler(request)
        if isinstance(body, bytes) or not isawaitable(body):  # it is in time
            return _measured(body, request)
        answer = Deferred.fromCoroutine(_awaited(body, request, deadlines))
        if deadlines is not None and not answer.called:
            deadlines.begin(body, answer.cancel)
        return answer

    return endpoint


async def _awaited(
    body: Awaitable[bytes | None], request: IRequest, deadlines: Deadlines | None
) -> bytes:
    try:
        return _measured(await body, request)
    except Refused:
        if _is_gone(request):  # nobody to tell
            raise CancelledError from None
        raise
    except CancelledError:
        if _is_gone(request) or deadlines is None:
            raise
        LATE.inc()
        raise Refused(
            503,
            f"there was no answer within {deadlines.seconds:g} seconds (--request-timeout): "
            "another server that is needed for it is slow or down",
            {"Retry-After": str(_RETRY_SECONDS)},
        ) from None
    finally:
        if deadlines is not None:
            deadlines.end(body)


def _measured(body: bytes | None, request: IRequest) -> bytes:
    """Return the body of an answer, and tell its length."""
    if body is None:  # the handler has written its answer itself, or gives no length
        return b""
    if getattr(request, "code", 200) not in NO_BODY_CODES:
        request.setHeader("Content-Length", str(len(body)))
    return body


def _is_gone(request: IRequest) -> bool:
    """Return whether the client has gone away."""
    return getattr(request, "channel", None) is None


def make_site(
    routes: Iterable[Route],
    reactor: IReactorTime,
    *,
    timeouts: Timeouts = TIMEOUTS,
    guard: Guard | None = None,
    connections: int | None = None,
) -> Site:
    """Make a site that serves routes.

    Args:
        routes: what it serves.
        reactor: tells the time, and calls later.
        timeouts: how long clients may take.
        guard: has its say about every request; None: there is none.
        connections: how many there may be; None: any number.
    """
    table = list(routes)
    by_path = {route.path.encode(): route for route in table}
    branches = sorted((route for route in table if route.branch), key=lambda each: -len(each.path))
    deadlines = Deadlines(reactor, timeouts.request)
    return Site(
        make_resource(table, deadlines),
        by_path,
        reactor,
        branches,
        timeouts,
        guard=guard,
        connections=connections,
    )
