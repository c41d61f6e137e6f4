"""All names of Twisted with an underscore that this package needs; no other module touches one.

Each stands here behind a public name, with the reason why Twisted's public names do not do. The
tests of this module fail where a Twisted does not have one, or has given it another meaning;
`tests/test_private_names.py` fails where another module touches one.
"""

from __future__ import annotations

import os
import sys
from traceback import format_exception_only
from typing import Any, ClassVar, Final

from OpenSSL import SSL
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.protocols.memcache import MemCacheProtocol
from twisted.python.failure import Failure
from twisted.web._newclient import (
    BODY,
    HEADER,
    STATUS,
    HTTP11ClientProtocol,
    HTTPClientParser,
    Request,
    RequestNotSent,
    TransportProxyProducer,
)
from twisted.web.client import HTTPConnectionPool
from twisted.web.http import (
    HTTPChannel,
    _DataLoss,
    _IdentityTransferDecoder,
    _MalformedChunkedDataError,
)
from twisted.web.iweb import IResponse
from zope.interface import implementer

__all__ = [
    "AnswerParser",
    "ClientConnection",
    "ConnectionPool",
    "DataLoss",
    "MalformedChunks",
    "MemcachedConnection",
    "NamedEndpoint",
    "Request",
    "RequestNotSent",
    "ServerChannel",
    "TransportOfReader",
    "TrustRoot",
    "say_in_words_why_nothing_started",
]

#: As much as a pipe takes at once, and so gives back at once (PIPE_BUF).
_PIPE_BYTES: Final = 4096

# --- Errors: what is raised has no public name ----------------------------------------------------

DataLoss = _DataLoss
MalformedChunks = _MalformedChunkedDataError

# --- Answers: what is strict about them can only be said inside Twisted's parser ------------------


class AnswerParser(HTTPClientParser):
    """A parser of one answer. Twisted's has no public name, and hides how far it has come."""

    def is_in_headers(self) -> bool:
        """Return whether the status line has come, and the empty line after the headers has not."""
        return bool(self.state == HEADER)

    def is_before_body(self) -> bool:
        """Return whether the empty line after the headers has not come."""
        return self.state in (STATUS, HEADER)

    def has_header(self) -> bool:
        """Return whether a header has begun that the next line may continue."""
        return self._partialHeader is not None

    def has_length(self) -> bool:
        """Tell whether the body has a length, rather than chunks or nothing but an end."""
        decoder = self.bodyDecoder
        return isinstance(decoder, _IdentityTransferDecoder) and decoder.contentLength is not None

    def ends_with_connection(self) -> bool:
        """Return whether a body is being read that only the end of the connection ends."""
        decoder = self.bodyDecoder
        return (
            self.state == BODY
            and isinstance(decoder, _IdentityTransferDecoder)
            and decoder.contentLength is None
        )

    def end_body(self, reason: Failure) -> None:
        """Tell the reader of the body why there is no more of it."""
        self.response._bodyDataFinished(reason)

    def answerReceived(self, rest: bytes) -> None:
        """Take note that the answer is whole.

        Args:
            rest: what has come behind it.
        """

    def _finished(self, rest: bytes) -> None:
        self.answerReceived(rest)
        super()._finished(rest)


class TransportOfReader(TransportProxyProducer):
    """The connection as the reader of a body sees it. Twisted's only closes in good order."""

    def abortConnection(self) -> None:
        """End the connection at once, whatever the other side does."""
        if self._producer is not None:
            self._producer.abortConnection()


class ClientConnection(HTTP11ClientProtocol):
    """A connection that one request after the other is made over.

    Twisted lets nobody choose its parser, closes in good order where only an abrupt end is safe,
    and takes bytes that nobody asked for as the beginning of the next answer.
    """

    parserClass: ClassVar[type[AnswerParser]] = AnswerParser

    @property
    def parser(self) -> AnswerParser | None:
        """The parser of the answer that is awaited or read; None: there is none."""
        return self._parser if isinstance(self._parser, AnswerParser) else None

    def request(self, request: Request) -> Deferred[IResponse]:
        """Make a request; see Twisted's."""
        answered: Deferred[IResponse] = super().request(request)
        # Nothing has been received yet, so it matters to nobody that these were of another class.
        if isinstance(self._parser, HTTPClientParser):
            self._parser.__class__ = self.parserClass
        if isinstance(self._transportProxy, TransportProxyProducer):
            self._transportProxy.__class__ = TransportOfReader
        return answered

    def refuse_unasked(self) -> None:
        """End a connection that has sent something between two answers: no pool gives it out."""
        self._state = "UNASKED"
        self._abort()

    def _giveUp(self, reason: Failure) -> None:
        if reason.check(ConnectionDone):
            super()._giveUp(reason)  # the orderly end after an answer
            return
        # Over TLS an orderly end would wait for the other side, which may go on sending.
        self._abort()
        self._disconnectParser(reason)

    def _abort(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _connectionLost_UNASKED(self, reason: Failure) -> None:
        self._state = "CONNECTION_LOST"


class ConnectionPool(HTTPConnectionPool):
    """A pool of connections. Twisted's makes only its own, whatever a subclass would like."""

    def connectionFactory(self, quiescent: Any, metadata: Any) -> Factory:
        """Return a factory of connections.

        Args:
            quiescent: to be called with a connection that may make another request.
            metadata: which connection this is, for a log.
        """
        raise NotImplementedError

    def _factory(self, quiescent: Any, metadata: Any) -> Factory:  # type: ignore[override]
        return self.connectionFactory(quiescent, metadata)


class NamedEndpoint(HostnameEndpoint):
    """The way to a server by its name. Twisted's alone decides which names are good ones."""

    @classmethod
    def is_good_name(cls, host: str) -> bool:
        """Return whether a name is good, whatever Twisted thinks of it."""
        return False

    @classmethod
    def _hostAsBytesAndText(cls, host: bytes | str) -> tuple[bool, bytes, str]:
        if isinstance(host, str) and cls.is_good_name(host):
            return False, host.encode("ascii"), host
        answer: tuple[bool, bytes, str] = HostnameEndpoint._hostAsBytesAndText(host)
        return answer


# --- Requests: a body can only be guarded before Twisted has read it ------------------------------


class ServerChannel(HTTPChannel):
    """A connection of a client. Twisted's tells a request its own line only with the whole body."""

    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Return the method, URI and version of the request whose headers are complete."""
        return self._command, self._path, self._version

    def are_headers_too_many(self) -> bool:
        """Return whether the headers have come to more bytes or lines than they may."""
        return bool(
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        )

    def has_unread(self) -> bool:
        """Return whether something has come that has not been looked at yet."""
        return bool(self._buffer) or (bool(self._dataBuffer) and any(self._dataBuffer))

    def malformedReceived(self) -> None:
        """Answer what no request can be made of. Twisted's answer gives no reason."""
        super()._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.malformedReceived()


# --- Memcached: who waits for an answer is only known inside --------------------------------------


class MemcachedConnection(MemCacheProtocol):
    """A connection to a memcached.

    Twisted's takes a question out of those that wait before it knows that this is an answer to it:
    what is answered with nonsense would never end.
    """

    def lineReceived(self, line: bytes) -> None:
        """Take a line; if it is no answer, the question that it came for ends with that error."""
        asked = self._current[0] if self._current else None
        try:
            super().lineReceived(line)
        except Exception as error:
            if asked is not None and asked not in self._current and not asked._deferred.called:
                asked.fail(error)
            raise


# --- TLS: what a client trusts can only be made of certificates alone, by public names ------------


@implementer(IOpenSSLTrustRoot)
class TrustRoot:
    """A trust root, as `twisted.internet.ssl.CertificateOptions` takes it."""

    def add_to(self, context: SSL.Context) -> None:
        """Add it to a context, while that may still be changed."""
        raise NotImplementedError

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        self.add_to(context)


# --- twistd: the parent of a daemon prints the start of a reason, as Python writes bytes ----------


def say_in_words_why_nothing_started() -> None:
    """Have twistd in the background print why a daemon cannot start as text, and whole.

    It waits for its child, which tells it through a pipe. By itself it prints the first 100 bytes
    of that as Python writes bytes: `b"..."`.
    """
    from twisted.scripts._twistd_unix import UnixApplicationRunner

    runner: Any = UnixApplicationRunner
    runner._formatChildException = _format_exception
    runner._waitForStart = _wait_for_start


def _format_exception(runner: Any, exception: BaseException) -> bytes:
    """Return what the child tells: the reason, behind a byte that is not that of a success."""
    reason = str(exception)
    if not isinstance(exception, SystemExit):
        reason = format_exception_only(exception)[-1].strip()
    return f"1 {reason}".encode("utf-8", "backslashreplace")[:_PIPE_BYTES]


def _wait_for_start(runner: Any, pipe: int) -> int:
    """Wait for the child to tell how it went; return the exit status."""
    told = os.read(pipe, _PIPE_BYTES)
    if told == b"0":
        return 0
    print(told[2:].decode("utf-8", "replace"), file=sys.__stderr__, flush=True)
    return 1
