"""From a request's Authorization header to a token, or a 401."""

from __future__ import annotations

from twisted.web.iweb import IRequest

from telemeter.auth.bearer import NotAuthorizedError, parse_bearer
from telemeter.web.site.refused import Refused


def bearer_token(request: IRequest) -> str:
    """Return the bearer token of a request.

    Raises:
        Refused: 401, there is none.
    """
    try:
        return parse_bearer(request.getHeader("Authorization"))
    except NotAuthorizedError as error:
        raise unauthorized(error) from None


def unauthorized(error: NotAuthorizedError) -> Refused:
    """Return the refusal of a caller that we do not know."""
    return Refused(401, f"Not authorized: {error}", {"WWW-Authenticate": "Bearer"})
