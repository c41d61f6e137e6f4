"""The fleet's page: static files, which show what the API tells."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Final

from twisted.web.iweb import IRequest

from telemeter.web.site.routing import Route

#: Nothing but our own files, and nobody may frame the page or make it send something.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARDS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {
    "fleet.css": "text/css; charset=utf-8",
    "fleet.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Where the static files are.
STATIC: Final = "/static/"


def page_routes() -> list[Route]:
    """Return the routes of what the page consists of, besides its HTML."""
    return [
        Route(STATIC + name, _sender(name, kind), listed=False) for name, kind in _TYPES.items()
    ]


def html_sender() -> Callable[[IRequest], bytes]:
    """Return what answers with the page's HTML."""
    return _sender("fleet.html", "text/html; charset=utf-8")


def _sender(name: str, content_type: str) -> Callable[[IRequest], bytes]:
    body = files("telemeter.web").joinpath("static", name).read_bytes()

    def send(request: IRequest) -> bytes:
        request.setHeader("Content-Type", content_type)
        for header, value in _GUARDS.items():
            request.setHeader(header, value)
        return body

    return send
