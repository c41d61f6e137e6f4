"""Bodies of outgoing requests, and of the answers to them: bounded, and never left unread."""

from __future__ import annotations

from io import BytesIO

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from telemeter.net.coding import CodingError, Gunzip
from telemeter.net.errors import ExplainedError

#: How many encoded bytes there may be beyond twice the limit of decoded ones: gzip that decodes to
#: nothing need not end.
_ENCODED_SLACK = 64 * 1024


class AnswerTooLongError(ExplainedError):
    """An answer is over its limit."""


@implementer(IBodyProducer)
class BytesBody:
    """A request body that is all there: written at once, so it needs no cooperator."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def stopProducing(self) -> None:
        """Nothing is under way."""

    def pauseProducing(self) -> None:
        """Nothing is under way."""

    def resumeProducing(self) -> None:
        """Nothing is under way."""


class BodyReader(Protocol):
    """A reader of a body, up to a limit of decoded bytes; there it lets the connection go.

    Attributes:
        done: fires with None when the body is there whole and intact; or fails with
            `AnswerTooLongError`, `CodingError`, or that the connection was lost. Cancelling closes
            the connection.
        is_open_ended: whether nothing but the end of the connection told that it is whole.
    """

    is_open_ended = False

    def __init__(self, limit: int, decoder: Gunzip | None = None) -> None:
        """Make a reader.

        Args:
            limit: how many bytes the body may have, decoded.
            decoder: decodes it; None: it is plain.
        """
        self.done: Deferred[None] = Deferred(lambda _: self._drop())
        self._read = BytesIO()
        self._limit = limit
        self._left = limit
        self._decoder = decoder
        self._encoded_left = 2 * limit + _ENCODED_SLACK

    @property
    def body(self) -> bytes:
        """The bytes that have been read so far, at most as many as the limit."""
        return self._read.getvalue()

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        if self._decoder is None:
            self._take(data)
            return
        self._encoded_left -= len(data)
        try:
            for piece in self._decoder.feed(data, self._left + 1):
                self._take(piece)
        except CodingError as error:
            self._fail(error)
            return
        if self._encoded_left < 0 and not self.done.called:
            self._fail(AnswerTooLongError(f"{self._too_long()}: it is encoded as far more"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if not reason.check(ResponseDone, PotentialDataLoss):
            self.done.errback(reason)
            return
        self.is_open_ended = reason.check(PotentialDataLoss) is not None and self._decoder is None
        try:
            if self._decoder is not None:
                self._decoder.end()
        except CodingError as error:
            self.done.errback(error)
        else:
            self.done.callback(None)

    def _take(self, data: bytes) -> None:
        self._read.write(data if len(data) <= self._left else data[: self._left])
        self._left -= len(data)
        if self._left < 0:
            self._fail(AnswerTooLongError(self._too_long()))

    def _too_long(self) -> str:
        return f"the answer is over the limit of {self._limit} bytes"

    def _fail(self, error: ExplainedError) -> None:
        self._drop()
        self.done.errback(error)

    def _drop(self) -> None:
        """End the connection: at once, as the other side may never stop to send."""
        transport = self.transport
        if transport is not None:
            getattr(transport, "abortConnection", transport.loseConnection)()


def read_body(response: IResponse, limit: int) -> Deferred[bytes]:
    """Read the first bytes of a body, as they come, and nothing more of it.

    Args:
        response: the answer.
        limit: how many bytes at most.

    Returns:
        The bytes, or a failure: the connection was lost. Cancelling closes the connection.
    """
    reader = BodyReader(limit)

    def read(_: object) -> bytes:
        return reader.body

    def failed(failure: Failure) -> bytes:
        failure.trap(AnswerTooLongError)
        return reader.body

    response.deliverBody(reader)
    return reader.done.addCallbacks(read, failed)
