"""The agent's own /federate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.web.iweb import IRequest

from telemeter.samples.escaping import Escaping, escape_families
from telemeter.samples.exposition import render_text
from telemeter.samples.family import TEXT_CONTENT_TYPE, Family
from telemeter.web.site.routing import Route


def federate_route(last: Callable[[], Sequence[Family]]) -> Route:
    """/federate: what was sent last, in the text format.

    Names of other characters than those of the format are escaped: not every reader takes them.
    """

    def federate(request: IRequest) -> bytes:
        request.setHeader("Content-Type", f"{TEXT_CONTENT_TYPE}; charset=utf-8")
        return render_text(escape_families(last(), Escaping.UNDERSCORES)).encode()

    return Route("/federate", federate)
