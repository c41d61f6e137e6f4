"""Routes: one table that both Klein and the site's gates read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.web.site.admission import Gate
from telemeter.web.site.answers import (
    answer_failure,
    answer_refused,
    method_not_allowed,
    not_found,
)
from telemeter.web.site.refused import Refused
from telemeter.web.site.site import Site


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
    """

    path: str
    handler: Callable[[IRequest], Any]
    methods: tuple[str, ...] = ("GET", "HEAD")
    name: str = ""
    gate: Gate | None = None
    branch: bool = False
    listed: bool = True


def make_resource(routes: Iterable[Route]) -> IResource:
    """Return a Klein resource that serves routes, and answers everything else in plain text."""
    app = Klein()
    app.url_map.merge_slashes = False
    for route in routes:
        app.route(
            route.path, methods=list(route.methods), endpoint=route.path, branch=route.branch
        )(_endpoint(route.handler))

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


def _endpoint(handler: Callable[[IRequest], Any]) -> Callable[..., Any]:
    """Return a handler as Klein calls it, whose answer tells its length."""

    async def endpoint(request: IRequest, *_: Any) -> bytes:
        try:
            body = handler(request)
            if isawaitable(body):
                body = await body
        except Refused:
            if getattr(request, "channel", None) is None:  # the client is gone: nobody to tell
                raise CancelledError from None
            raise
        if body is None:  # the handler has written its answer itself, or gives no length
            return b""
        if getattr(request, "code", 200) not in NO_BODY_CODES:
            request.setHeader("Content-Length", str(len(body)))
        return body  # type: ignore[no-any-return]

    return endpoint


def make_site(routes: Iterable[Route], reactor: Any, *, timeouts: Timeouts = TIMEOUTS) -> Site:
    """Make a site that serves routes.

    Args:
        routes: what it serves.
        reactor: tells the time, and calls later.
        timeouts: how long clients may take.
    """
    table = list(routes)
    by_path = {route.path.encode(): route for route in table}
    branches = sorted((route for route in table if route.branch), key=lambda each: -len(each.path))
    return Site(make_resource(table), by_path, reactor, branches, timeouts)
