"""The `Authorization: Bearer TOKEN` header."""

from __future__ import annotations


class NotAuthorizedError(Exception):
    """The caller did not say who it is, or not so that we believe it."""


def parse_bearer(header: str | None) -> str:
    """Return the token in an `Authorization` header; the scheme is case-insensitive.

    Raises:
        NotAuthorizedError: no header, another scheme, or no token. The message never holds a token.
    """
    if header is None:
        raise NotAuthorizedError("no Authorization header, expected: Authorization: Bearer TOKEN")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthorizedError("only bearer authorization is allowed")
    token = token.strip()
    if not token:
        raise NotAuthorizedError("the Authorization header has no token behind Bearer")
    return token
