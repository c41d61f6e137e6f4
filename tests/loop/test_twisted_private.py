"""What Twisted itself must have for this to work: each name with an underscore, by what it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.scripts._twistd_unix import UnixApplicationRunner
from twisted.web.client import Agent, ResponseFailed, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from twisted.web.resource import Resource
from twisted.web.server import Site

from telemeter.loop.twisted_private import (
    AnswerParser,
    ClientConnection,
    ConnectionPool,
    DataLoss,
    MalformedChunks,
    MemcachedConnection,
    NamedEndpoint,
    Request,
    RequestNotSent,
    ServerChannel,
    TrustRoot,
    say_in_words_why_nothing_started,
)
from tests.fakes import result_of
from tests.tap.world import FakeReactor

# --- Answers --------------------------------------------------------------------------------------


class Parser(AnswerParser):
    """A parser that says when an answer is whole."""

    rest: bytes | None = None

    def answerReceived(self, rest: bytes) -> None:
        self.rest = rest


class Connection(ClientConnection):
    parserClass = Parser


class Conversation:
    """A connection, and what has come of the one request that was made over it."""

    def __init__(self) -> None:
        self.free: list[object] = []
        self.connection = Connection(self.free.append)
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)
        self.answer: Deferred[IResponse] = self.ask()
        parser = self.connection.parser
        assert isinstance(parser, Parser)
        self.parser = parser

    def ask(self) -> Deferred[IResponse]:
        headers = Headers({b"Host": [b"a"]})
        return self.connection.request(Request(b"GET", b"/", headers, None, persistent=True))

    def receive(self, data: bytes) -> None:
        self.connection.dataReceived(data)

    @property
    def response(self) -> IResponse:
        return result_of(self.answer)


@pytest.fixture
def conversation() -> Conversation:
    return Conversation()


def test_a_parser_knows_how_far_it_has_come(conversation: Conversation) -> None:
    parser = conversation.parser
    assert (parser.is_before_body(), parser.is_in_headers()) == (True, False)
    conversation.receive(b"HTTP/1.1 200 OK\r\n")
    assert (parser.is_before_body(), parser.is_in_headers(), parser.has_header()) == (
        True,
        True,
        False,
    )
    conversation.receive(b"Content-Length: 3\r\n")
    assert parser.has_header()
    conversation.receive(b"\r\n")
    assert (parser.is_before_body(), parser.is_in_headers()) == (False, False)
    assert parser.has_length()
    assert not parser.ends_with_connection()


def test_a_body_that_only_the_connection_ends(conversation: Conversation) -> None:
    conversation.receive(b"HTTP/1.1 200 OK\r\n\r\nab")
    assert conversation.parser.ends_with_connection()
    assert not conversation.parser.has_length()


@pytest.mark.parametrize(
    ("body", "rest"), [(b"abc", b""), (b"abcmore", b"more")], ids=["whole", "and more"]
)
def test_an_answer_is_whole(conversation: Conversation, body: bytes, rest: bytes) -> None:
    conversation.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    body_read = readBody(conversation.response)
    conversation.receive(body)
    assert conversation.parser.rest == rest
    assert result_of(body_read) == b"abc"


def test_a_reader_is_told_why_there_is_no_more(conversation: Conversation) -> None:
    conversation.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    body_read = readBody(conversation.response)
    conversation.parser.end_body(Failure(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        result_of(body_read)


def test_a_reader_can_end_the_connection_at_once(conversation: Conversation) -> None:
    conversation.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    readBody(conversation.response).addErrback(lambda _: None)
    transport: Any = conversation.parser.transport
    transport.abortConnection()
    assert conversation.transport.disconnected


def test_an_answer_that_is_cut_off(conversation: Conversation) -> None:
    conversation.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    body_read = readBody(conversation.response)
    conversation.connection.connectionLost(Failure(ConnectionDone()))
    with pytest.raises(ResponseFailed) as caught:
        result_of(body_read)
    assert any(reason.check(DataLoss) for reason in caught.value.reasons)


def test_chunks_that_are_malformed(conversation: Conversation) -> None:
    conversation.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    body_read = readBody(conversation.response)
    conversation.receive(b"x\r\n")
    assert conversation.transport.disconnected, "not at once, but in good order"
    conversation.connection.connectionLost(Failure(ConnectionLost()))
    with pytest.raises(ResponseFailed) as caught:
        result_of(body_read)
    assert any(reason.check(MalformedChunks) for reason in caught.value.reasons)


def test_a_connection_that_speaks_without_being_asked(conversation: Conversation) -> None:
    conversation.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    connection = conversation.connection
    assert conversation.response.code == 204
    assert connection.parser is None
    assert (conversation.free, connection.state) == ([connection], "QUIESCENT")
    connection.refuse_unasked()
    assert conversation.transport.disconnected
    with pytest.raises(RequestNotSent):
        result_of(conversation.ask())
    connection.connectionLost(Failure(ConnectionDone()))
    assert connection.state == "CONNECTION_LOST"


def test_a_pool_makes_its_own_connections() -> None:
    made: list[Connection] = []

    class Connections(Factory):
        def __init__(self, quiescent: object) -> None:
            self.quiescent = quiescent

        def buildProtocol(self, addr: object) -> Connection:
            made.append(Connection(self.quiescent))
            return made[-1]

    class Pool(ConnectionPool):
        def connectionFactory(self, quiescent: object, metadata: object) -> Factory:
            return Connections(quiescent)

    reactor = FakeReactor()
    Agent(reactor, pool=Pool(reactor)).request(b"GET", b"http://127.0.0.1/")
    reactor.tcpClients[0][2].buildProtocol(None)
    assert len(made) == 1


def test_a_name_that_twisted_does_not_like() -> None:
    class Endpoint(NamedEndpoint):
        @classmethod
        def is_good_name(cls, host: str) -> bool:
            return host == "under_score"

    reactor = FakeReactor()
    refused: list[str] = []
    for name in ("under_score", "another_one", "a.test"):
        connecting = Endpoint(reactor, name, 1).connect(Factory())
        connecting.addErrback(lambda failure: refused.append(str(failure.value)))
    assert refused == ["invalid hostname: another_one"]


# --- Requests -------------------------------------------------------------------------------------


class Channel(ServerChannel):
    """A channel that says what it could make no request of."""

    def __init__(self) -> None:
        super().__init__()
        self.malformed: list[bool] = []

    def malformedReceived(self) -> None:
        self.malformed.append(self.are_headers_too_many())


def channel_that_received(data: bytes) -> Any:
    channel: Any = Channel()
    site: Any = Site(Resource(), reactor=Clock())
    channel.factory = site
    channel.makeConnection(StringTransport())
    channel.dataReceived(data)
    return channel


def test_the_request_line_is_known_before_the_body() -> None:
    channel = channel_that_received(b"POST /a?b HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
    assert channel.request_line() == (b"POST", b"/a?b", b"HTTP/1.1")
    assert channel.malformed == []


@pytest.mark.parametrize(
    ("lines", "too_many"),
    [
        (b"no colon\r\n\r\n", False),
        (b"A: b\r\n" * 600, True),
        ((b"A: " + b"b" * 10_000 + b"\r\n") * 2, True),
    ],
    ids=["malformed", "lines", "bytes"],
)
def test_what_no_request_is_made_of(lines: bytes, too_many: bool) -> None:
    channel = channel_that_received(b"GET / HTTP/1.1\r\n" + lines)
    assert channel.malformed[:1] == [too_many]


# --- Memcached ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", [b"what?", b"END", b"VALUE k", b"\xff"])
def test_a_question_that_nonsense_answers_ends(nonsense: bytes) -> None:
    connection: Any = MemcachedConnection()
    connection.makeConnection(StringTransport())
    asked, waiting = connection.set(b"k", b"v"), connection.get(b"k")
    with pytest.raises(Exception):  # noqa: B017 - whatever it stumbles over
        connection.dataReceived(nonsense + b"\r\n")
    connection.setTimeout(None)
    connection.connectionLost(Failure(ConnectionLost()))
    for deferred in (asked, waiting):
        with pytest.raises(Exception):  # noqa: B017
            result_of(deferred)


# --- TLS ------------------------------------------------------------------------------------------


def test_what_is_trusted_is_asked_for() -> None:
    contexts: list[SSL.Context] = []

    class Root(TrustRoot):
        def add_to(self, context: SSL.Context) -> None:
            contexts.append(context)

    options = CertificateOptions(trustRoot=Root())
    assert contexts == [options.getContext()]


# --- twistd ---------------------------------------------------------------------------------------

NAMES = ("_formatChildException", "_waitForStart")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> UnixApplicationRunner:
    """What twistd runs an application with, as it is in the background."""
    for name in NAMES:  # to be undone
        monkeypatch.setattr(UnixApplicationRunner, name, getattr(UnixApplicationRunner, name))
    say_in_words_why_nothing_started()
    return UnixApplicationRunner({"profile": False, "debug": False})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (SystemExit(f"telemeter-server: 'é' {'x' * 500}"), f"telemeter-server: 'é' {'x' * 500}\n"),
        (OSError("a\udcff"), "OSError: a\\udcff\n"),
        (ValueError(), "ValueError\n"),
    ],
    ids=["reason", "other", "empty"],
)
def test_the_reason_comes_whole_and_as_text(
    runner: UnixApplicationRunner,
    pipe: tuple[int, int],
    error: BaseException,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.__stderr__", sys.stderr)
    os.write(pipe[1], runner._formatChildException(error))
    assert runner._waitForStart(pipe[0]) == 1
    assert capsys.readouterr().err == shown


def test_a_very_long_reason_fits_the_pipe(runner: UnixApplicationRunner) -> None:
    assert len(runner._formatChildException(SystemExit("é" * 10_000))) == 4096


def test_a_success(runner: UnixApplicationRunner, pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"0")
    assert runner._waitForStart(pipe[0]) == 0
