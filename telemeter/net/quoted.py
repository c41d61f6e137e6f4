"""Answers of other servers, fit for a log line."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Final

from twisted.web.iweb import IResponse

#: Where the secrets of a request are.
_HEADERS: Final = ("Authorization", "Proxy-Authorization")
_SHOWN: Final = 500
#: The shortest beginning of a secret that is looked for where an answer was cut off.
_SHORTEST: Final = 4


def quote_answer(response: IResponse, body: bytes) -> str:
    """Return the beginning of an answer.

    Some servers repeat what they were sent. What the request had in its headers for authorization
    is taken out, and so is a beginning of it at the end, where the body may have been cut off.

    Args:
        response: the answer.
        body: its body, or the first part of that.
    """
    text = body.decode("utf-8", "replace")
    for secret in _secrets_of(response):
        text = text.replace(secret, "...")
        for length in range(min(len(secret) - 1, len(text)), _SHORTEST - 1, -1):
            if text.endswith(secret[:length]):
                text = f"{text[:-length]}..."
                break
    return text[:_SHOWN].strip()


def _secrets_of(response: IResponse) -> Iterator[str]:
    """Return what was sent as proof of who we are: tokens, users with passwords, and passwords."""
    request = getattr(response, "request", None)
    if request is None:
        return
    for name in _HEADERS:
        for value in request.headers.getRawHeaders(name, ()):
            scheme, _, credentials = value.partition(" ")
            if credentials:
                yield credentials
            if scheme.lower() == "basic":
                yield from _password_in(credentials)


def _password_in(credentials: str) -> Iterator[str]:
    try:
        pair = base64.b64decode(credentials).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    password = pair.partition(":")[2]
    if password:
        yield password
