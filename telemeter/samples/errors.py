"""The errors of pure code whose input is at fault.

The message is for the person who sent the input: it says what was expected and what was seen.
"""

from __future__ import annotations


class BadInputError(ValueError):
    """The input cannot be decoded, or breaks a rule of its format."""


class TooLargeError(BadInputError):
    """The input is over a limit.

    Attributes:
        limit: the limit in bytes.
        seen: the size in bytes that was over it, or a lower bound of it.
    """

    def __init__(self, message: str, *, limit: int, seen: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.seen = seen


class BecomesTooLargeError(TooLargeError):
    """An input that becomes more than a fixed limit, however large it is itself."""
