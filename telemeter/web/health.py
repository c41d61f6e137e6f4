"""/healthz, /healthz/ready, the list of paths at /, and /metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector
from twisted.web.iweb import IRequest

from telemeter.observe.registry import metrics_page
from telemeter.web.site.answers import TEXT
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route


class Health:
    """The health of a daemon: that it lives, and whether it wants requests.

    Attributes:
        changed: is called with `ready` whenever that is set.
    """

    def __init__(self, others: Callable[[], bool] = lambda: True) -> None:
        """Make one.

        Args:
            others: whether those are ready too who are needed besides.
        """
        self.changed: Callable[[bool], None] = lambda ready: None
        self._others = others
        self._ready = True
        self._stopping = False

    @property
    def ready(self) -> bool:
        """False until all that is needed is there, and as soon as the daemon is told to stop."""
        return self._ready and self._others()

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._ready = ready
        self.changed(self.ready)

    def stop(self) -> None:
        """Want no more requests."""
        self._stopping = True
        self.ready = False

    def answer_live(self, request: IRequest) -> bytes:
        request.setHeader("Content-Type", TEXT)
        return b"ok\n"

    def answer_ready(self, request: IRequest) -> bytes:
        if not self.ready:
            raise Refused(503, "shutting down" if self._stopping else "starting")
        return self.answer_live(request)

    def routes(self) -> list[Route]:
        """Return the routes of both."""
        return [
            Route(path, answer, any_host=True, any_caller=True)
            for path, answer in (
                ("/healthz", self.answer_live),
                ("/healthz/ready", self.answer_ready),
            )
        ]


def metrics_route(source: Collector = REGISTRY) -> Route:
    """/metrics, in the text format or as OpenMetrics."""

    def metrics(request: IRequest) -> bytes:
        content_type, body = metrics_page(request.getHeader("Accept") or "", source)
        request.setHeader("Content-Type", content_type)
        return body

    return Route("/metrics", metrics, any_host=True)


def index_route(routes: Iterable[Route], page: Callable[[IRequest], bytes] | None = None) -> Route:
    """Return the route of /: a list of paths, or a page for who asks for text/html.

    Args:
        routes: what it lists, besides itself.
        page: answers with the page; None: there is none.
    """
    paths = ["/", *(route.path for route in routes if route.listed)]
    body = json.dumps({"paths": paths}, indent=2).encode()

    def index(request: IRequest) -> bytes:
        if page is not None:
            request.setHeader("Vary", "Accept")
            if _wants_html(request.getHeader("Accept") or ""):
                return page(request)
        request.setHeader("Content-Type", "application/json")
        return body

    return Route("/", index)


def _wants_html(accept: str) -> bool:
    """Return whether the header Accept names text/html, as that of a browser does."""
    return any(kind.partition(";")[0].strip().lower() == "text/html" for kind in accept.split(","))
