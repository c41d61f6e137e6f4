"""The fields of a request's query, or of a form in its body, which is written the same way."""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qsl

from twisted.web.iweb import IRequest


def query_of(request: IRequest) -> bytes:
    """Return the query of a request: what stands behind the question mark."""
    query: bytes = request.uri.partition(b"?")[2]
    return query


def parse_fields(
    data: bytes, *, errors: Literal["strict", "replace"] = "strict"
) -> list[tuple[str, str]]:
    """Return the names and values of a query or form, in their order, empty values included.

    Args:
        data: as `application/x-www-form-urlencoded`.
        errors: what is done with what is no UTF-8.

    Raises:
        UnicodeDecodeError: it is no UTF-8, if that is an error.
    """
    return parse_qsl(data.decode("utf-8", errors), keep_blank_values=True, errors=errors)
