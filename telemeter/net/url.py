"""URLs as flags give them: taken apart, extended, and shown without their secrets."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

#: The schemes that are spoken, and the ports that they mean where a URL has none.
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_EXPECTED: Final = "expected a URL such as http://HOST:PORT/PATH or https://HOST/PATH"
#: The end of what is between a scheme and a path: an IPv6 address has brackets, and no zone.
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|[^:\[\]@%]+)(?::[0-9]*)?")
#: What stays as it is in a path and in a query (RFC 3986, sections 3.3 and 3.4).
_IN_PATH: Final = "%/:@!$&'()*+,;=~"
_IN_QUERY: Final = f"{_IN_PATH}?"


def check_http_url(value: str) -> str:
    """Return an absolute http or https URL.

    Raises:
        ValueError: it is none.
    """
    try:
        parts = urlsplit(value)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_right = urlsplit(""), False
    if parts.hostname and ":" in parts.hostname and "%" in parts.hostname:
        raise ValueError(f"{_EXPECTED}; an IPv6 address with a zone (%...) is not understood here")
    if (
        parts.scheme not in DEFAULT_PORTS
        or not parts.hostname
        or not port_is_right
        or not _HOST_AND_PORT.fullmatch(parts.netloc.rpartition("@")[2])
        or not value.isascii()
        or not value.isprintable()
        or " " in value
    ):
        hint = "; an IPv6 address is written as [::1]" if value.count(":") > 2 else ""
        raise ValueError(f"{_EXPECTED}{hint}")
    return value


def to_request(url: str) -> str:
    """Return the URL to ask for: without user and fragment, and with legal characters only."""
    parts = urlsplit(url)
    return urlunsplit(
        (
            parts.scheme,
            parts.netloc.rpartition("@")[2].removesuffix(":"),
            quote(parts.path, safe=_IN_PATH),
            quote(parts.query, safe=_IN_QUERY),
            "",
        )
    )


def extend_path(url: str, segment: str) -> str:
    """Return the URL of something below another; the query stays."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{segment}", fragment=""))


def default_path(url: str, path: str) -> str:
    """Return the URL with this path if it has none of its own; without a slash at the end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") or path, fragment=""))


def replace_path(url: str, path: str) -> str:
    """Another path on the same server; the path may have a query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{path}"


def add_query(url: str, fields: Iterable[tuple[str, str]]) -> str:
    """Return the URL with more fields in its query."""
    parts = urlsplit(url)
    added = urlencode(list(fields), quote_via=quote)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, added)))))


def split_credentials(url: str) -> tuple[str, str | None]:
    """Return the URL to ask for, without user and password, and their Authorization header."""
    parts = urlsplit(url)
    user_info, separator, _ = parts.netloc.rpartition("@")
    if not separator:
        return to_request(url), None
    user, _, password = user_info.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}".encode()
    return to_request(url), f"Basic {base64.b64encode(pair).decode()}"


def shown(url: str) -> str:
    """Return the URL for a log line: without user, password and query, which may be secret."""
    return _bare(urlsplit(url)._replace(query=""))


def _bare(parts: SplitResult) -> str:
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
