"""/healthz, /healthz/ready, the list of paths at /, and /metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.web.iweb import IRequest

from telemeter.observe.registry import metrics_page
from telemeter.web.refused import Refused
from telemeter.web.routing import Route
from telemeter.web.site import TEXT


class Health:
    """Whether the daemon lives, and whether it wants requests.

    Attributes:
        ready: False until all that the daemon needs is there, and from the moment that it is told
            to stop.
    """

    def __init__(self) -> None:
        self.ready = True
        self._stopping = False

    def stop(self) -> None:
        """Want no more requests."""
        self.ready = False
        self._stopping = True

    def live(self, request: IRequest) -> bytes:
        request.setHeader("Content-Type", TEXT)
        return b"ok\n"

    def is_ready(self, request: IRequest) -> bytes:
        if not self.ready:
            raise Refused(503, "shutting down" if self._stopping else "starting")
        return self.live(request)

    def routes(self) -> list[Route]:
        """The routes of both."""
        return [Route("/healthz", self.live), Route("/healthz/ready", self.is_ready)]


def metrics_route() -> Route:
    """/metrics, in the text format or as OpenMetrics."""

    def metrics(request: IRequest) -> bytes:
        content_type, body = metrics_page(request.getHeader("Accept") or "")
        request.setHeader("Content-Type", content_type)
        return body

    return Route("/metrics", metrics)


def index_route(paths: Sequence[str]) -> Route:
    """/: which paths there are."""
    body = json.dumps({"paths": list(paths)}, indent=2).encode()

    def index(request: IRequest) -> bytes:
        request.setHeader("Content-Type", "application/json")
        return body

    return Route("/", index)
