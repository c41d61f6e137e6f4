"""A request's body, kept up to a limit: how every endpoint takes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import BytesIO

from twisted.internet.defer import Deferred

from telemeter.web.site.refused import Refused


class BoundedBody(ABC):
    """An admission (`telemeter.web.site.admission`) that keeps the body until it is taken.

    Attributes:
        allowed: what the body has to wait for; None: nothing.
    """

    allowed: Deferred[None] | None = None

    def __init__(self, most: int) -> None:
        """Make one.

        Args:
            most: how many bytes the body may have.
        """
        self._most = most
        self._body = BytesIO()

    @abstractmethod
    def too_large(self, size: int) -> Refused:
        """Return the refusal of a body that has so many bytes, or more."""

    def expect(self, length: int | None) -> None:
        """Refuse a length that is over the limit, before anything has come.

        Args:
            length: of the body in bytes; None: its sender does not say.

        Raises:
            Refused: see `too_large`.
        """
        if length is not None and length > self._most:
            raise self.too_large(length)

    def write(self, data: bytes) -> None:
        size = self._body.tell() + len(data)
        if size > self._most:
            raise self.too_large(size)
        self._body.write(data)

    def take_body(self) -> bytes:
        """Return the body as it arrived; it is not kept here any longer."""
        body, self._body = self._body, BytesIO()
        return body.getvalue()

    def abandoned(self) -> None:
        """Undo what admitting the request did, if it did something that lasts."""
        self._body = BytesIO()
