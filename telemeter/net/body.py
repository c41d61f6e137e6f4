"""Bodies of outgoing requests, and of the answers to them: bounded, and never left unread."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer


class AnswerTooLongError(Exception):
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


class _Collector(Protocol):
    """Collects a body up to a limit; at the limit it lets the connection go."""

    def __init__(self, limit: int, *, truncate: bool) -> None:
        self._parts: list[bytes] = []
        self._left = limit
        self._limit = limit
        self._truncate = truncate
        self.done: Deferred[bytes] = Deferred(lambda _: self._drop())

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._parts.append(data[: self._left])
        self._left -= len(data)
        if self._left < 0:
            self._drop()
            if self._truncate:
                self.done.callback(b"".join(self._parts))
            else:
                self.done.errback(
                    AnswerTooLongError(f"the answer is over the limit of {self._limit} bytes")
                )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)

    def _drop(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def read_body(response: IResponse, limit: int, *, truncate: bool = False) -> Deferred[bytes]:
    """Read the body of an answer.

    Args:
        response: the answer.
        limit: how many bytes at most.
        truncate: what is over the limit is cut off, rather than an error.

    Returns:
        The body, or a failure: `AnswerTooLongError`, or that the connection was lost. Cancelling
        closes the connection.
    """
    collector = _Collector(limit, truncate=truncate)
    response.deliverBody(collector)
    return collector.done
