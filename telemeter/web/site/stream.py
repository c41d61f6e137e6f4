"""An answer that is made while it is sent."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from telemeter.loop.timeouts import TIMEOUTS

#: After so many seconds, or so many bytes, others get their turn.
_TURN_SECONDS: Final = 0.004
_TURN_BYTES: Final = 64 * 1024
#: The quickest: the reader is mostly near, and waits.
_LEVEL: Final = 1

log = Logger()


@implementer(IPushProducer)
class Stream:
    """A body of an answer, written piece by piece as fast as the reader takes it.

    Attributes:
        done: fires when all is written, or fails with what went wrong; cancel it to stop. Then the
            connection is closed, because the reader could not know that something is missing.
    """

    def __init__(
        self,
        request: Any,
        pieces: Iterator[bytes],
        clock: IReactorTime,
        *,
        compress: bool,
        patience: float = TIMEOUTS.reader,
    ) -> None:
        """Begin.

        Args:
            request: whose answer it is, with its headers set.
            pieces: the body. To make each takes little time; they may be empty.
            clock: tells the time, and when others had their turn.
            compress: whether to write gzip.
            patience: for how many seconds the reader may take nothing, until it is hung up on.
        """
        self._patience = patience
        self._request = request
        self._pieces = pieces
        self._clock = clock
        self._compressor = zlib.compressobj(_LEVEL, wbits=31) if compress else None
        self._next: IDelayedCall | None = None
        self._stalled: IDelayedCall | None = None
        self.done: Deferred[None] = Deferred(self._cancelled)
        request.registerProducer(self, True)
        self._turn()

    def resumeProducing(self) -> None:
        self._forget_calls()
        self._next = self._clock.callLater(0, self._turn)

    def pauseProducing(self) -> None:
        self._forget_calls()
        self._stalled = self._clock.callLater(self._patience, self._hang_up)

    def stopProducing(self) -> None:
        """Stop, because the connection is gone."""
        self._forget_calls()

    def _turn(self) -> None:
        self._next = None
        try:
            body, more = self._some()
        except Exception:
            self._broken(Failure())
            return
        if more:
            # Before writing: that may pause, and then there is no next turn for now.
            self._next = self._clock.callLater(0, self._turn)
        if body:
            self._request.write(body)
        if not more:
            self._forget_calls()
            self._request.unregisterProducer()
            self.done.callback(None)

    def _some(self) -> tuple[bytes, bool]:
        """Return a part of the body, and whether there is more."""
        end = self._clock.seconds() + _TURN_SECONDS
        made: list[bytes] = []
        size = 0
        for piece in self._pieces:
            made.append(piece)
            size += len(piece)
            if size >= _TURN_BYTES or self._clock.seconds() >= end:
                break
        else:
            body = b"".join(made)
            if self._compressor is not None:
                body = self._compressor.compress(body) + self._compressor.flush()
            return body, False
        body = b"".join(made)
        return body if self._compressor is None else self._compressor.compress(body), True

    def _forget_calls(self) -> None:
        for call in (self._next, self._stalled):
            if call is not None and call.active():
                call.cancel()

    def _hang_up(self) -> None:
        log.warn("a reader took nothing and was hung up on", seconds=self._patience)
        self._request.transport.abortConnection()

    def _broken(self, failure: Failure) -> None:
        log.failure("an answer could not be completed", failure)
        self._request.unregisterProducer()
        self._request.transport.abortConnection()

    def _cancelled(self, done: Deferred[None]) -> None:
        self._forget_calls()
