"""Requests through treq: nothing of them, or of their answers, is changed by it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from telemeter.net.body import BytesBody
from telemeter.net.treq_agent import TreqAgent

URI = b"http://[::1]:9090/a%2Fb//c?match[]=%7B__name__%3D%22up%22%7D&x=%e2%82%ac+%2B"


@implementer(IResponse)
class Response:
    """An answer without a body."""

    version: Any = (b"HTTP", 1, 1)
    phrase = b"OK"
    length = 0
    request: Any = None
    previousResponse: Any = None

    def __init__(self, code: int, headers: dict[bytes, list[bytes]]) -> None:
        self.code = code
        self.headers = Headers(headers)

    def deliverBody(self, protocol: Any) -> None: ...

    def setPreviousResponse(self, response: Any) -> None: ...


@implementer(IAgent)
class Recorder:
    """An agent that keeps what it is asked, and gives one answer."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.asked: list[tuple[Any, ...]] = []

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[IResponse]:
        self.asked.append((method, uri, headers, bodyProducer))
        answer: Any = self.response
        return succeed(answer)


def ask(response: Response, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
    """The answer, and the request as it is sent."""
    recorder = Recorder(response)
    agent = TreqAgent(recorder)
    verifyObject(IAgent, agent)
    answers: list[Any] = []
    agent.request(*arguments).addCallback(answers.append)
    return answers[0], recorder.asked[0]


def test_a_request_is_sent_as_it_is() -> None:
    headers = Headers({b"Accept-Encoding": [b"gzip"], b"X-A": [b"1", b"2"]})
    body = BytesBody(b"body")
    _, (method, uri, sent, producer) = ask(Response(200, {}), b"POST", URI, headers, body)
    assert (method, uri, producer) == (b"POST", URI, body)
    assert sent == headers


def test_no_header_is_added() -> None:
    _, (_, _, sent, producer) = ask(Response(200, {}), b"GET", URI)
    assert list(sent.getAllRawHeaders()) in ([], [(b"Accept-Encoding", [])])
    assert producer is None


@pytest.mark.parametrize("codings", [[b"gzip"], [b"GZIP", b"br"], []])
def test_a_body_stays_encoded(codings: list[bytes]) -> None:
    headers = {b"Content-Encoding": codings} if codings else {}
    answer, _ = ask(Response(200, headers), b"GET", URI, Headers())
    assert answer.headers.getRawHeaders(b"Content-Encoding", []) == codings
    assert answer.original.__class__ is Response


@pytest.mark.parametrize("cookie", [b"a=b; Path=/", "name=J\u00fcrgen".encode(), b"\xff\x00"])
def test_no_cookie_is_kept(cookie: bytes) -> None:
    recorder = Recorder(Response(200, {b"Set-Cookie": [cookie], b"Set-Cookie2": [cookie]}))
    agent = TreqAgent(recorder)
    for _ in range(2):
        assert agent.request(b"GET", URI, Headers()).called
    assert not any(headers.hasHeader(b"Cookie") for _, _, headers, _ in recorder.asked)


def test_a_redirect_is_not_followed() -> None:
    answer, _ = ask(Response(307, {b"Location": [b"http://x/"]}), b"GET", URI, Headers())
    assert answer.code == 307
