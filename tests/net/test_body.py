"""Bodies: bounded, and never left unread."""

from __future__ import annotations

import gzip
import tracemalloc
from typing import Any

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from telemeter.net.body import AnswerTooLongError, BodyReader, BytesBody, read_body
from telemeter.net.coding import CodingError, Gunzip
from tests.fakes import FakeTransport, result_of


class Response:
    """As much of a response as is needed to read its body."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.protocol: Any = None

    def deliverBody(self, protocol: IProtocol) -> None:
        self.protocol = protocol
        protocol.makeConnection(self.transport)


class Reading:
    """A body that is being read."""

    def __init__(self, limit: int = 5, decoder: Gunzip | None = None) -> None:
        self.reader = BodyReader(limit, decoder)
        self.transport = FakeTransport()
        self.reader.makeConnection(self.transport)

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.reader.dataReceived(piece)

    def end(self, error: BaseException | None = None) -> None:
        self.reader.connectionLost(Failure(error or ResponseDone()))

    @property
    def is_dropped(self) -> bool:
        """Whether the connection was ended at once."""
        return bool(self.transport.disconnected)

    def result(self) -> bytes:
        result_of(self.reader.done)
        return self.reader.body


@pytest.mark.parametrize("pieces", [[], [b""], [b"abc"], [b"ab", b"", b"c"], [b"12345"]])
def test_a_body_within_its_limit(pieces: list[bytes]) -> None:
    reading = Reading()
    reading.receive(*pieces)
    assert not reading.reader.done.called
    reading.end()
    assert reading.result() == b"".join(pieces)
    assert not reading.is_dropped


@pytest.mark.parametrize("pieces", [[b"123456"], [b"12345", b"6"], [b"123", b"456789"]])
def test_a_body_over_its_limit(pieces: list[bytes]) -> None:
    reading = Reading()
    reading.receive(*pieces)
    assert reading.is_dropped
    with pytest.raises(AnswerTooLongError, match="limit of 5 bytes"):
        reading.result()
    assert reading.reader.body == b"12345"
    reading.receive(b"more")
    reading.end(ResponseFailed([]))
    assert reading.reader.body == b"12345"


def test_a_limit_of_nothing() -> None:
    reading = Reading(0)
    reading.end()
    assert reading.result() == b""
    reading = Reading(0)
    reading.receive(b"x")
    with pytest.raises(AnswerTooLongError):
        reading.result()


def test_a_body_that_ends_with_its_connection() -> None:
    reading = Reading()
    reading.receive(b"abc")
    reading.end(PotentialDataLoss())
    assert reading.result() == b"abc"


@pytest.mark.parametrize(
    "error", [errors.ConnectionLost(), errors.ConnectionDone(), ResponseFailed([])]
)
def test_a_connection_that_is_lost(error: Exception) -> None:
    reading = Reading()
    reading.receive(b"abc")
    reading.end(error)
    with pytest.raises(type(error)):
        reading.result()
    assert reading.reader.body == b"abc"


def test_to_give_up_closes_the_connection() -> None:
    reading = Reading()
    reading.receive(b"abc")
    reading.reader.done.cancel()
    assert reading.is_dropped
    with pytest.raises(CancelledError):
        reading.result()
    reading.receive(b"defghi")
    reading.end(errors.ConnectionLost())


def test_a_coded_body_is_limited_by_what_it_decodes_to() -> None:
    for size, fits in ((1000, True), (1001, False)):
        reading = Reading(1000, Gunzip())
        reading.receive(gzip.compress(bytes(size)))
        assert reading.is_dropped is not fits
        reading.end()
        if fits:
            assert reading.result() == bytes(1000)
        else:
            with pytest.raises(AnswerTooLongError, match="limit of 1000 bytes"):
                reading.result()


def test_a_coded_body_that_is_cut_off() -> None:
    reading = Reading(1000, Gunzip())
    reading.receive(gzip.compress(b"abc")[:-1])
    reading.end(PotentialDataLoss())
    with pytest.raises(CodingError, match="cut off"):
        reading.result()


def test_a_coded_body_that_is_damaged_is_read_no_further() -> None:
    reading = Reading(1000, Gunzip())
    reading.receive(b"plain")
    assert reading.is_dropped
    with pytest.raises(CodingError, match="damaged"):
        reading.result()


def test_gzip_that_decodes_to_nothing_does_not_go_on_without_end() -> None:
    reading = Reading(1000, Gunzip())
    nothing = gzip.compress(b"") * 100
    received = 0
    while not reading.reader.done.called:
        reading.receive(nothing)
        received += len(nothing)
        assert received < 100_000
    assert reading.is_dropped
    with pytest.raises(AnswerTooLongError, match="limit of 1000 bytes"):
        reading.result()


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    limit = 4 << 20
    reading = Reading(limit, Gunzip())
    tracemalloc.start()
    try:
        for start in range(0, len(bomb), 1 << 16):
            reading.receive(bomb[start : start + (1 << 16)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with pytest.raises(AnswerTooLongError):
        reading.result()
    # The body, what grows it, and one piece more.
    print(peak)
    assert peak < 1.5 * limit


@pytest.mark.parametrize("pieces", [[b"123456"], [b"12345", b"6"], [b"123", b"456789"]])
def test_the_first_bytes_of_a_body(pieces: list[bytes]) -> None:
    response = Response()
    body = read_body(response, 5)  # type: ignore[arg-type]
    for piece in pieces:
        response.protocol.dataReceived(piece)
    assert response.transport.disconnected
    assert result_of(body) == b"12345"


def test_the_first_bytes_of_a_short_body() -> None:
    response = Response()
    body = read_body(response, 5)  # type: ignore[arg-type]
    response.protocol.dataReceived(b"abc")
    response.protocol.connectionLost(Failure(ResponseDone()))
    assert result_of(body) == b"abc"
    assert not response.transport.disconnected


def test_the_first_bytes_of_a_body_that_is_lost() -> None:
    response = Response()
    body = read_body(response, 5)  # type: ignore[arg-type]
    response.protocol.connectionLost(Failure(errors.ConnectionLost()))
    with pytest.raises(errors.ConnectionLost):
        result_of(body)


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
