"""Access tokens, as issuers give them out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from telemeter.loop.clocks import Elapsed

#: How long a token is used whose lifetime the issuer does not tell, and how long any, in seconds.
_DEFAULT_LIFETIME: Final = 300.0
_LONGEST_LIFETIME: Final = 24 * 3600.0
#: A token is used until so many seconds before it expires, as issuers count in whole seconds, and
#: renewed so many before that; but neither is more than a quarter of its lifetime.
_ROUNDING: Final = 1.0
_MARGIN: Final = 60.0
_LONGEST_TOKEN: Final = 16 * 1024


class TokenUnavailableError(Exception):
    """There is no access token; the message says why, and holds no secret.

    Attributes:
        passing: whether it may be over in a moment.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass(slots=True)
class AccessToken:
    """A token, and for how long.

    Attributes:
        value: what is shown.
        renew: from when on another is asked for.
        expires: until when it is used.
        refused: whether somebody refused it before its time.
    """

    value: str = field(repr=False)
    renew: Elapsed
    expires: Elapsed
    refused: bool = False


def parse_object(what: str, body: bytes) -> dict[str, Any]:
    """Return a JSON object; raises `TokenUnavailableError`, which begins with `what`."""
    # Not chained: the parser's error holds the whole body, in which a token may be.
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TokenUnavailableError(f"{what}: expected a JSON object, saw something else")
    return fields


def parse_token(endpoint: str, body: bytes, began: Elapsed) -> AccessToken:
    """Read the answer with a token (RFC 6749, section 5.1).

    Args:
        endpoint: where it came from, for messages.
        body: the answer.
        began: when it was asked for.

    Raises:
        TokenUnavailableError: there is no usable token in it.
    """
    # Here, because it takes 15 ms of a start, and few servers have an issuer; see `TokenSource`.
    from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error

    fields = parse_object(endpoint, body)
    # Only what is looked at here: oauthlib stumbles over some malformed values of the others.
    names = ("access_token", "token_type", "error", "error_description")
    plain = {name: fields[name] for name in names if isinstance(fields.get(name), str)}
    client = BackendApplicationClient("")
    try:
        client.parse_request_body_response(json.dumps(plain))
    except OAuth2Error as error:
        raise TokenUnavailableError(
            f"{endpoint} gave no token: {error.error}: {error.description}"
        ) from None
    if client.token_type.lower() != "bearer":
        raise TokenUnavailableError(
            f"{endpoint}: expected a token of type Bearer, saw {client.token_type!r}"
        )
    value = client.access_token or ""
    if not value.isascii() or not value.isprintable() or not value or " " in value:
        raise TokenUnavailableError(f"{endpoint}: the access token is malformed")
    if len(value) > _LONGEST_TOKEN:
        raise TokenUnavailableError(
            f"{endpoint}: the access token is over the limit of {_LONGEST_TOKEN} characters"
        )
    lifetime = _lifetime(fields.get("expires_in"))
    expires = Elapsed(began + lifetime - min(_ROUNDING, lifetime / 4))
    return AccessToken(value, Elapsed(expires - min(_MARGIN, lifetime / 4)), expires)


def _lifetime(value: object) -> float:
    """For how many seconds a token is used, by its `expires_in`."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return _DEFAULT_LIFETIME
    return float(min(value, _LONGEST_LIFETIME))
