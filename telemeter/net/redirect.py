"""Redirects (RFC 9110, section 15.4): which are followed, and where to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from telemeter.net.errors import ExplainedError
from telemeter.net.url import DEFAULT_PORTS, check_http_url, shown, to_request

#: How many redirects are followed, one after the other.
MOST_REDIRECTS: Final = 5

_REDIRECTS: Final = (301, 302, 303, 307, 308)
#: After these, a request is made again as it is, with its method and its body.
_KEEPING_METHOD: Final = (307, 308)
_LONGEST_SHOWN: Final = 200
#: What stays as it is in a Location; other bytes, such as those of UTF-8, are percent-encoded.
_RESERVED: Final = "!#$%&'()*+,/:;=?@[]~"


class RedirectError(ExplainedError):
    """An answer points elsewhere, and is not followed; the text says where to, and why not.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int, location: str, why: str) -> None:
        super().__init__(
            f"status {status}, which points to {_named(location)} and is not followed: {why}"
        )
        self.status = status


def is_redirect(status: int) -> bool:
    """Tell whether a status sends the client elsewhere."""
    return status in _REDIRECTS


def redirect_target(
    method: str, url: str, status: int, locations: Sequence[bytes], *, confidential: bool
) -> str:
    """Return the URL to go on with.

    Args:
        method: GET or POST.
        url: of the request, absolute.
        status: of its answer, one that `is_redirect` knows.
        locations: the values of all Location headers, of which there is one at least.
        confidential: whether the request has a token, or a body that is not for everybody.

    Raises:
        RedirectError: it is not to be followed, or there is no such URL.
    """
    location = quote(locations[0].strip(), safe=_RESERVED)
    try:
        joined = urljoin(url, location)
    except ValueError:  # whose words hold the location as it came, however long
        raise RedirectError(status, location, "it is no URL") from None
    try:
        target = check_http_url(joined)
    except ValueError as error:
        raise RedirectError(status, location, str(error)) from None
    if len(set(locations)) > 1:
        raise RedirectError(status, target, "there is more than one Location")
    if "@" in urlsplit(target).netloc:
        raise RedirectError(status, target, "there is a user in it")
    if method != "GET" and status not in _KEEPING_METHOD:
        raise RedirectError(status, target, f"after a {method} only 307 and 308 are")
    if confidential and _origin(target) != _origin(url):
        raise RedirectError(
            status,
            target,
            "tokens and what is sent go to the same scheme, host and port only; should that be the "
            "configured URL?",
        )
    return to_request(target)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS[parts.scheme]


def _named(location: str) -> str:
    """Return a location for a message, without its user, password and query."""
    try:
        named = shown(location)
    except ValueError:
        named = ""
    if not named:
        return "nowhere"
    text = "".join(each if each.isascii() and each.isprintable() else "?" for each in named)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
