"""Connections to other servers: Twisted's, with a limit for headers, and with strict framing.

RFC 9112 is what an answer is held against. What it does not allow is an error that says what was
seen.
"""

from __future__ import annotations

import re
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import (
    BODY,
    HEADER,
    STATUS,
    HTTP11ClientProtocol,
    HTTPClientParser,
    Request,
    TransportProxyProducer,
)
from twisted.web.client import ResponseFailed, _HTTP11ClientFactory
from twisted.web.http import _IdentityTransferDecoder
from twisted.web.iweb import IResponse

from telemeter.net.errors import ExplainedError

#: How many bytes all headers of an answer may have, with its status line and interim answers.
HEAD_LIMIT: Final = 256 * 1024
#: How many lines those may be. A header takes some hundred bytes of memory, however short it is.
LINES_LIMIT: Final = 2000

#: Twisted copies what is left of its input with every line: in pieces of this size, that is cheap.
_PIECE: Final = 4096
_SHOWN: Final = 60
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] [1-9][0-9]{2}(?: .*)?", re.DOTALL)
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


class MalformedAnswerError(ExplainedError):
    """An answer is not HTTP/1.1."""


class HeadTooLongError(ExplainedError):
    """The headers of an answer are over their limit."""


class _Parser(HTTPClientParser):
    """A parser of one answer."""

    MAX_LENGTH = HEAD_LIMIT
    _room = HEAD_LIMIT
    _lines = 0
    _excess = False

    def lineReceived(self, line: bytes) -> None:
        self._room -= len(line) + 1
        self._lines += 1
        if self._room < 0 or self._lines > LINES_LIMIT:
            raise self._too_long(len(line))
        text = line.removesuffix(b"\r")
        if self.state == HEADER and text:
            if text[0] in b" \t":
                if self._partialHeader is None:
                    raise MalformedAnswerError(f"the first header is malformed: {_shown(text)}")
            elif b":" not in text:
                raise MalformedAnswerError(f"a header without a colon: {_shown(text)}")
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        raise self._too_long(len(line))

    def _too_long(self, length: int) -> HeadTooLongError:
        if self._lines > LINES_LIMIT:
            return HeadTooLongError(f"the headers of the answer are over {LINES_LIMIT} lines")
        seen = HEAD_LIMIT - self._room + (length if self._room >= 0 else 0)
        return HeadTooLongError(
            f"the headers of the answer are over the limit of {HEAD_LIMIT} bytes: {seen} bytes "
            f"have come, {length} of them in one header"
        )

    def statusReceived(self, status: bytes) -> None:
        if not _STATUS_LINE.fullmatch(status):
            raise MalformedAnswerError(
                f"expected an answer such as HTTP/1.1 200 OK, saw {_shown(status)}"
            )
        super().statusReceived(status)

    def headerReceived(self, name: bytes, value: bytes) -> None:
        if _TOKEN.fullmatch(name):
            super().headerReceived(name, value)
        elif _TOKEN.fullmatch(name.strip()):
            # A server that means this to be a name could mean the framing by it.
            raise MalformedAnswerError(f"a space before the colon of a header: {_shown(name)}")

    def allHeadersReceived(self) -> None:
        status = self.response.code
        if status == 101:
            raise MalformedAnswerError("status 101, and nobody asked for another protocol")
        if status < 200:
            # An interim answer: what comes next is another. The room that is left stays.
            self.connectionMade()
            del self.response
            return
        self._check_framing()
        super().allHeadersReceived()

    def _check_framing(self) -> None:
        """Check how the body ends, and whether the connection does (RFC 9112, 6.3 and 9.3)."""
        tokens = self._tokens(b"Connection")
        codings = self._tokens(b"Transfer-Encoding")
        lengths = self._tokens(b"Content-Length")
        closes = b"close" in tokens or (
            self.response.version[2] == 0 and b"keep-alive" not in tokens
        )
        if codings:
            closes = closes or bool(lengths)
            if codings != [b"chunked"]:
                raise MalformedAnswerError(
                    f"expected Transfer-Encoding chunked, saw {_shown(b', '.join(codings))}"
                )
        elif not all(map(_LENGTH.fullmatch, lengths)) or len(set(map(int, lengths))) > 1:
            raise MalformedAnswerError(
                f"expected one number as Content-Length, saw {_shown(b', '.join(lengths))}"
            )
        self.connHeaders.setRawHeaders(b"Connection", [b"close"] if closes else [])

    def _tokens(self, name: bytes) -> list[bytes]:
        """Return the elements of a header that is a list, in lower case."""
        fields = self.connHeaders.getRawHeaders(name)
        if fields is None:
            return []
        return [each.strip(b" \t").lower() for each in b",".join(fields).split(b",")]

    def _finished(self, rest: bytes) -> None:
        if rest:
            # Whatever this is, it must not be taken for the answer to the next request.
            self.connHeaders.setRawHeaders(b"Connection", [b"close"])
            decoder = self.bodyDecoder
            self._excess = isinstance(decoder, _IdentityTransferDecoder) and rest.strip() != b""
        super()._finished(rest)

    def connectionLost(self, reason: Failure | None = None) -> None:
        reason = reason or connectionDone
        decoder = self.bodyDecoder
        if self._excess:
            excess = Failure(MalformedAnswerError("the body goes on after its Content-Length"))
            self.response._bodyDataFinished(Failure(ResponseFailed([excess], self.response)))
        elif (
            self.state == BODY
            and isinstance(decoder, _IdentityTransferDecoder)
            and decoder.contentLength is None
            and not reason.check(ConnectionDone)
        ):
            # Without a length, only an orderly end is one: over TLS that is its closing alert
            # (RFC 9112, section 9.8), which Twisted has told us by this reason.
            self.response._bodyDataFinished(Failure(ResponseFailed([reason], self.response)))
        else:
            super().connectionLost(reason)


class _Transport(TransportProxyProducer):
    """The connection as the reader of a body sees it."""

    def abortConnection(self) -> None:
        """End the connection at once, whatever the other side does."""
        if self._producer is not None:
            self._producer.abortConnection()


class Connection(HTTP11ClientProtocol):
    """A connection that one request after the other is made over."""

    def request(self, request: Request) -> Deferred[IResponse]:
        answered: Deferred[IResponse] = super().request(request)
        # Twisted lets nobody choose these classes. Nothing has been received yet.
        if isinstance(self._parser, HTTPClientParser):
            self._parser.__class__ = _Parser
        if isinstance(self._transportProxy, TransportProxyProducer):
            self._transportProxy.__class__ = _Transport
        return answered

    def dataReceived(self, data: bytes) -> None:
        while len(data) > _PIECE and self._parser is not None and self._is_in_head():
            super().dataReceived(data[:_PIECE])
            data = data[_PIECE:]
        if self._parser is not None:
            super().dataReceived(data)
        elif self._state == "QUIESCENT":
            # Bytes that nobody asked for: the pool must not give out this connection again.
            self._state = "UNASKED"
            self._abort()

    def _is_in_head(self) -> bool:
        return self._parser is not None and self._parser.state in (STATUS, HEADER)

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


class ConnectionFactory(_HTTP11ClientFactory):
    """A factory of a pool's connections."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._quiescentCallback)


def _shown(value: bytes) -> str:
    """Return what somebody else sent, fit for a log line."""
    cut = "..." if len(value) > _SHOWN else ""
    return ascii(value[:_SHOWN].decode("latin-1")) + cut
