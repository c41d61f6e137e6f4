"""A request's body, kept up to a limit: how every endpoint takes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import BytesIO
from typing import Final

from twisted.internet.defer import Deferred

from telemeter.limits.inflight import Account, CrowdedOutError
from telemeter.web.site.refused import Refused

#: When a sender should try again that was refused because of what others send, in seconds.
_RETRY_SECONDS: Final = 15


class BoundedBody(ABC):
    """An admission (`telemeter.web.site.admission`) that keeps the body until it is taken.

    Attributes:
        allowed: what the body has to wait for; None: nothing.
    """

    allowed: Deferred[None] | None = None

    def __init__(self, most: int, account: Account | None = None) -> None:
        """Make one.

        Args:
            most: how many bytes the body may have.
            account: counts what is held of the request; None: nobody does.
        """
        self._most = most
        self._body = BytesIO()
        self._account = account

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
        self.hold(len(data))
        self._body.write(data)

    def take_body(self) -> bytes:
        """Return the body as it arrived; it is not kept here any longer."""
        body, self._body = self._body, BytesIO()
        return body.getvalue()

    def hold(self, size: int) -> None:
        """Count so many bytes as held for the request, until it is over.

        Raises:
            Refused: 503, too many are held already.
        """
        if self._account is not None:
            try:
                self._account.hold(size)
            except CrowdedOutError as error:
                raise Refused(
                    503,
                    f"too much is under way at present: {error}",
                    {"Retry-After": str(_RETRY_SECONDS)},
                ) from None

    def keep(self, size: int) -> None:
        """Count no more than so many bytes as held from now on."""
        if self._account is not None:
            self._account.keep(size)

    def abandoned(self) -> None:
        """Undo what admitting the request did, if it did something that lasts."""
        self._body = BytesIO()

    def over(self) -> None:
        """Hold nothing any longer, because the request is over."""
        self._body = BytesIO()
        if self._account is not None:
            self._account.close()
