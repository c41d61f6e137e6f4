"""Paths that lead to a route once they are clean, such as `//upload`.

A base URL with a slash at its end makes such paths. The original redirects them too, because Go's
ServeMux does; to a 404 a Prometheus would drop its samples.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote_from_bytes

from telemeter.web.site.refused import Refused

#: What may be in a header and has no need to be encoded.
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


def clean(path: bytes) -> bytes:
    """Return a path without empty, `.` and `..` segments.

    A slash at the end stays, as ServeMux has it: with it, it is another path.

    Args:
        path: without the query, decoded, beginning with a slash.
    """
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    cleaned = b"/" + b"/".join(segments)
    return cleaned + b"/" if segments and path.endswith(b"/") else cleaned


def moved(path: bytes, uri: bytes) -> Refused:
    """Return the redirect to a clean path, with the method, the body and the query as they came.

    The location has no host, so it leads to no other server: a clean path begins with one slash.

    Args:
        path: the clean path, decoded.
        uri: what was asked for; its query is passed on.
    """
    clean_path = quote_from_bytes(path)
    _, mark, query = uri.partition(b"?")
    location = clean_path + quote_from_bytes(mark + query, safe=_PRINTABLE)
    return Refused(307, f"the path is {clean_path}", {"Location": location})
