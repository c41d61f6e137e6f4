"""Connections to other servers: Twisted's, with a limit for headers, and with strict framing.

RFC 9112 is what an answer is held against. What it does not allow is an error that says what was
seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.iweb import IResponse

from telemeter.loop.twisted_private import AnswerParser, ClientConnection, Request, RequestNotSent
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


class StaleConnectionError(ResponseNeverReceived):
    """A connection that had been used before was closed before anything of an answer came.

    Servers close connections that are idle, and may do so just when the next request is sent.
    """


class _Parser(AnswerParser):
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
        if self.is_in_headers() and text:
            if text[0] in b" \t":
                if not self.has_header():
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

    def answerReceived(self, rest: bytes) -> None:
        if rest:
            # Whatever this is, it must not be taken for the answer to the next request.
            self.connHeaders.setRawHeaders(b"Connection", [b"close"])
            self._excess = self.has_length() and rest.strip() != b""

    def connectionLost(self, reason: Failure | None = None) -> None:
        reason = reason or connectionDone
        if self._excess:
            excess = Failure(MalformedAnswerError("the body goes on after its Content-Length"))
            self.end_body(Failure(ResponseFailed([excess], self.response)))
        elif self.ends_with_connection() and not reason.check(ConnectionDone):
            # Without a length, only an orderly end is one: over TLS that is its closing alert
            # (RFC 9112, section 9.8), which Twisted has told us by this reason.
            self.end_body(Failure(ResponseFailed([reason], self.response)))
        else:
            super().connectionLost(reason)


class Connection(ClientConnection):
    """A connection that one request after the other is made over."""

    parserClass = _Parser

    def __init__(
        self, quiescent: Callable[[Any], None], stale: Callable[[], object] = lambda: None
    ) -> None:
        """Make it; see `ConnectionFactory`."""
        super().__init__(quiescent)
        self._stale = stale
        self._was_used = False

    def request(self, request: Request) -> Deferred[IResponse]:
        """Make a request.

        Returns:
            Fires with the answer. Fails with `StaleConnectionError` if it was not the connection's
            first, and nothing of an answer has come: then it may be made once more.
        """
        answered = super().request(request)
        if self._was_used:
            answered.addErrback(self._unanswered)
        self._was_used = True
        return answered

    def _unanswered(self, failure: Failure) -> Failure:
        """Tell a connection that was closed while it was idle from other failures."""
        error = failure.value
        if not isinstance(
            error, RequestNotSent | RequestTransmissionFailed | ResponseNeverReceived
        ):
            return failure
        reasons: list[Failure] = getattr(error, "reasons", [failure])
        if any(reason.check(CancelledError) for reason in reasons):
            return failure
        self._stale()
        return Failure(StaleConnectionError(reasons))

    def dataReceived(self, data: bytes) -> None:
        while len(data) > _PIECE and self.parser is not None and self.parser.is_before_body():
            super().dataReceived(data[:_PIECE])
            data = data[_PIECE:]
        if self.parser is not None:
            super().dataReceived(data)
        elif self.state == "QUIESCENT":
            self.refuse_unasked()


class ConnectionFactory(Factory):
    """A factory of a pool's connections."""

    noisy = False

    def __init__(self, quiescent: Callable[[Any], None], stale: Callable[[], object]) -> None:
        """Make it.

        Args:
            quiescent: to be called with a connection that may make another request.
            stale: to be called when one turns out to be closed.
        """
        self._quiescent = quiescent
        self._stale = stale

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._quiescent, self._stale)


def _shown(value: bytes) -> str:
    """Return what somebody else sent, fit for a log line."""
    cut = "..." if len(value) > _SHOWN else ""
    return ascii(value[:_SHOWN].decode("latin-1")) + cut
