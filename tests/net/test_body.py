"""Bodies: bounded, and never left unread."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from telemeter.net.body import AnswerTooLongError, BytesBody, read_body
from tests.fakes import result_of

DONE = Failure(ResponseDone())


class Response:
    """As much of a response as is needed to read its body."""

    def __init__(self) -> None:
        self.transport = StringTransport()
        self.protocol: Any = None

    def deliverBody(self, protocol: IProtocol) -> None:
        self.protocol = protocol
        protocol.makeConnection(self.transport)

    def read(self, limit: int, *, truncate: bool = False) -> Deferred[bytes]:
        return read_body(self, limit, truncate=truncate)  # type: ignore[arg-type]


@pytest.fixture
def response() -> Response:
    return Response()


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("pieces", [[], [b""], [b"abc"], [b"ab", b"", b"c"], [b"12345"]])
def test_a_body_within_its_limit(response: Response, pieces: list[bytes], truncate: bool) -> None:
    body = response.read(5, truncate=truncate)
    for piece in pieces:
        response.protocol.dataReceived(piece)
    assert not body.called
    response.protocol.connectionLost(DONE)
    assert result_of(body) == b"".join(pieces)
    assert not response.transport.disconnecting


@pytest.mark.parametrize("pieces", [[b"123456"], [b"12345", b"6"], [b"123", b"456789"]])
def test_a_body_over_its_limit(response: Response, pieces: list[bytes]) -> None:
    body = response.read(5)
    for piece in pieces:
        response.protocol.dataReceived(piece)
    assert response.transport.disconnecting
    with pytest.raises(AnswerTooLongError, match="limit of 5 bytes"):
        result_of(body)
    response.protocol.dataReceived(b"more")
    response.protocol.connectionLost(Failure(ResponseFailed([])))


@pytest.mark.parametrize("pieces", [[b"123456"], [b"12345", b"6"], [b"123", b"456789"]])
def test_a_body_that_is_cut_off(response: Response, pieces: list[bytes]) -> None:
    body = response.read(5, truncate=True)
    for piece in pieces:
        response.protocol.dataReceived(piece)
    assert response.transport.disconnecting
    assert result_of(body) == b"12345"
    response.protocol.dataReceived(b"more")
    response.protocol.connectionLost(Failure(ResponseFailed([])))


def test_a_limit_of_nothing(response: Response) -> None:
    body = response.read(0, truncate=True)
    response.protocol.dataReceived(b"x")
    assert result_of(body) == b""


def test_a_body_that_ends_with_its_connection(response: Response) -> None:
    body = response.read(5)
    response.protocol.dataReceived(b"abc")
    response.protocol.connectionLost(Failure(PotentialDataLoss()))
    assert result_of(body) == b"abc"


@pytest.mark.parametrize(
    "error", [errors.ConnectionLost(), errors.ConnectionDone(), ResponseFailed([])]
)
@pytest.mark.parametrize("truncate", [False, True])
def test_a_connection_that_is_lost(response: Response, error: Exception, truncate: bool) -> None:
    body = response.read(5, truncate=truncate)
    response.protocol.dataReceived(b"abc")
    response.protocol.connectionLost(Failure(error))
    with pytest.raises(type(error)):
        result_of(body)


def test_to_give_up_closes_the_connection(response: Response) -> None:
    body = response.read(5)
    response.protocol.dataReceived(b"abc")
    body.cancel()
    assert response.transport.disconnecting
    with pytest.raises(CancelledError):
        result_of(body)
    response.protocol.dataReceived(b"defghi")
    response.protocol.connectionLost(Failure(errors.ConnectionLost()))


def test_bytes_are_written_at_once() -> None:
    body = BytesBody(b"abc")
    assert verifyObject(IBodyProducer, body)
    assert body.length == 3
    for _ in range(2):  # a request that is sent again writes its body again
        consumer = StringTransport()
        result_of(body.startProducing(consumer))
        assert consumer.value() == b"abc"
    body.pauseProducing()
    body.resumeProducing()
    body.stopProducing()
