"""/healthz, /healthz/ready, the list of paths at /, and /metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector
from twisted.web.iweb import IRequest

from telemeter.observe.registry import metrics_page
from telemeter.web.site.answers import TEXT
from telemeter.web.site.query import parse_fields, query_of
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route


class Health:
    """The health of a daemon: that it lives, and whether it wants requests.

    It wants none only where another replica could do better. What all replicas share, such as the
    upstream, is told of on request, and does not count: all would leave the balancer at once.

    Attributes:
        changed: is called with `ready` whenever that is set.
        shared: what other servers it depends on, and how each is, in words.
    """

    def __init__(self, others: Callable[[], bool] = lambda: True) -> None:
        """Make one.

        Args:
            others: whether those are ready too who are needed besides.
        """
        self.changed: Callable[[bool], None] = lambda ready: None
        self.shared: dict[str, Callable[[], str]] = {}
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
        why_not = self._why_not()
        if why_not:
            raise Refused(503, why_not)
        return self.answer_live(request)

    def _answer_in_full(self, request: IRequest) -> bytes:
        """Answer whether it is ready, and with `?verbose` how everything is."""
        if "verbose" not in dict(parse_fields(query_of(request), errors="replace")):
            return self.answer_ready(request)
        why_not = self._why_not()
        lines = [f"this process: {why_not or 'ok'}"]
        lines += [f"{name}: {state()}" for name, state in self.shared.items()]
        request.setResponseCode(503 if why_not else 200)
        request.setHeader("Content-Type", TEXT)
        return "".join(f"{line}\n" for line in lines).encode()

    def _why_not(self) -> str:
        """Return why no requests are wanted; empty: they are."""
        if not self.ready:
            return "shutting down" if self._stopping else "starting"
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return f"no file can be opened: {error.strerror}"
        return ""

    def routes(self, *, for_operators: bool = False) -> list[Route]:
        """Return the routes of both.

        Args:
            for_operators: whether `?verbose` says how everything is.
        """
        ready = self._answer_in_full if for_operators else self.answer_ready
        return [
            Route(path, answer, any_host=True, any_caller=True)
            for path, answer in (("/healthz", self.answer_live), ("/healthz/ready", ready))
        ]


def metrics_route(
    source: Collector = REGISTRY, measure: Callable[[], None] = lambda: None
) -> Route:
    """/metrics, in the text format or as OpenMetrics.

    Args:
        source: whose metrics.
        measure: sets those that are only measured when somebody asks.
    """

    def metrics(request: IRequest) -> bytes:
        measure()
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
