"""POST /-/reload: read all files again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.web.iweb import IRequest

from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route


def reload_route(reload: Callable[[], Awaitable[None]]) -> Route:
    """Return the route.

    Args:
        reload: does it; raises ValueError with the reason why the old configuration stays.
    """

    async def post(request: IRequest) -> bytes:
        try:
            await reload()
        except ValueError as error:
            raise Refused(500, f"not reloaded, the old configuration stays: {error}") from None
        return b"reloaded\n"

    # Whatever it waits for has a time of its own.
    return Route("/-/reload", post, ("POST",), timed=False)
